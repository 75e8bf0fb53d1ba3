// Closed forms with sliders for what they depend on: norms, alignment, moments of the data, attention sinks.

import { Chart, zoomHelp } from "./chart.js";
import {
  choice,
  copyButton,
  copyLinkButton,
  element,
  list,
  number,
  problemElement,
  slider,
  table,
} from "./elements.js";
import { Live } from "./live.js";
import { outlierColour, planeElement } from "./plane.js";

const SIZE = 6;
const LENGTH = 4;
const NUM_SEQUENCES = 3;
const STEPS = 60;
const BULK_COLOUR = 0;
const ZERO_COLOUR = 7;

// Mean of x f(x) of a linear network, whose slope is <w, v>.
function outputCovariance(s) {
  return s.w * s.v * s.cosine * s.moment;
}

// Sliders whose values follow from others: how, and which other value they change.
const DERIVED = {
  residual: {
    of: (s) => outputCovariance(s) - s.covariance,
    set: (s, residual) => {
      s.covariance = outputCovariance(s) - residual;
    },
  },
};

function unit(index) {
  return Array.from({ length: SIZE }, (_, each) => Number(each === index));
}

const ALONG = Array(3).fill(1 / Math.sqrt(3));
const ACROSS = [Math.SQRT1_2, -Math.SQRT1_2, 0];

function sineOf(cosine) {
  return Math.sqrt(Math.max(0, 1 - cosine ** 2));
}

// The directions of two vectors in their plane, without those of length 0.
function directions([first, firstNorm], [second, secondNorm], cosine) {
  return [
    [first, [1, 0], firstNorm],
    [second, [cosine, sineOf(cosine)], secondNorm],
  ].filter(([, , norm]) => norm > 0);
}

// Vectors of these norms with this cosine, in the plane of the first two coordinates.
function pair(first, second, cosine) {
  const zeros = Array(SIZE - 2).fill(0);
  return [
    [first, 0, ...zeros],
    [second * cosine, second * sineOf(cosine), ...zeros],
  ];
}

// Neurons of one cell: weights w of one sign, and v with this cosine to them.
function cell(sign, { w, v, cosine }) {
  const along = ALONG.map((each) => sign * each);
  return [
    along.map((each) => w * each),
    along.map((each, index) => v * (cosine * each + sineOf(cosine) * ACROSS[index])),
  ];
}

// A pseudorandom number between -1 and 1, the same for the same index.
function sample(index) {
  const angle = Math.sin(12.9898 * (index + 1)) * 43758.5453;
  return 2 * (angle - Math.floor(angle)) - 1;
}

const SLIDERS = {
  w: { label: "Norm of w", min: 0, max: 5, step: 0.01, value: 1.5 },
  v: { label: "Norm of v", min: 0, max: 5, step: 0.01, value: 1 },
  cosine: { label: "Alignment: cosine of the angle between w and v", min: -1, max: 1, step: 0.01, value: 0.3 },
  moment: { label: "Mean of x²", min: 0.05, max: 5, step: 0.01, value: 1 },
  covariance: { label: "Mean of x y", min: -10, max: 10, step: 0.01, value: 2 },
  residual: { label: "Residual covariance: mean of x (f(x) − y)", min: -10, max: 10, step: 0.01 },
  positive: { label: "Mean of x y over x > 0", min: -5, max: 5, step: 0.01, value: 2 },
  negative: { label: "Mean of x y over x < 0", min: -5, max: 5, step: 0.01, value: -1 },
  rate: { label: "Learning rate", min: 0.01, max: 1.5, step: 0.01, value: 0.2 },
  query: { label: "Norm of the query weights", min: 0, max: 8, step: 0.01, value: 1 },
  key: { label: "Norm of the key weights", min: 0, max: 8, step: 0.01, value: 1 },
  alignment: { label: "Alignment of query and key weights", min: -1, max: 1, step: 0.01, value: 0.5 },
  value: { label: "Value weight", min: -3, max: 3, step: 0.01, value: 0.9 },
  sink: { label: "Bias of the attention sink", min: 0, max: 10, step: 0.05, value: 0 },
};

// The number of a setting, unless no slider could have made it.
function withinSlider(setting, { min, max, value }) {
  const wanted = Number(setting ?? NaN);
  return wanted >= min && wanted <= max ? wanted : value;
}

const KINDS = {
  linear: {
    title: "Two-layer linear network",
    sliders: ["w", "v", "cosine", "moment", "covariance", "residual", "rate"],
    plane: (s) => ({
      blocks: ["w", "v"],
      along: unit(0),
      across: unit(1),
      directions: directions(["w", s.w], ["v", s.v], s.cosine),
    }),
    request: (s) => {
      const [w, v] = pair(s.w, s.v, s.cosine);
      const x = Math.sqrt(s.moment);
      return {
        model: { kind: "linear", w, v },
        data: { x: [x], y: [s.covariance / x] },
        descent: { learning_rate: s.rate, num_steps: STEPS },
      };
    },
  },
  relu: {
    title: "Two-layer ReLU network",
    sliders: ["w", "v", "cosine", "moment", "positive", "negative"],
    // of the neurons that are active for x > 0, then of the others: each eigenvector belongs to one of both
    plane: (s) => ({
      blocks: ["w", "v"],
      along: [...ALONG, ...ALONG.map((each) => -each)],
      across: [...ACROSS, ...ACROSS],
      directions: directions(["w", s.w], ["v", s.v], s.cosine),
    }),
    request: (s) => {
      const cells = [1, -1].map((sign) => cell(sign, s));
      const x = Math.sqrt(s.moment);
      return {
        model: { kind: "relu", w: cells.flatMap(([w]) => w), v: cells.flatMap(([, v]) => v) },
        data: { x: [x, -x], y: [s.positive / x, -s.negative / x] },
      };
    },
  },
  "self-attention": {
    title: "Self-attention with a sink",
    sliders: ["query", "key", "alignment", "value", "sink"],
    plane: (s) => ({
      blocks: ["w_q", "w_k"],
      along: unit(0),
      across: unit(1),
      directions: directions(["w_q", s.query], ["w_k", s.key], s.alignment),
    }),
    request: (s) => {
      const [query, key] = pair(s.query, s.key, s.alignment);
      const rows = Array.from({ length: NUM_SEQUENCES }, (_, row) =>
        Array.from({ length: LENGTH }, (__, column) => sample(row * LENGTH + column)),
      );
      return {
        model: { kind: "self-attention", w_v: s.value, w_q: query, w_k: key, sink_bias: s.sink },
        data: { x: rows, y: rows.map((row) => [...row].reverse()) },
      };
    },
  },
};

// Each outlier has the colour of its eigenvector.
function spectrumCurves(eigenvalues) {
  const of = (role) => eigenvalues.filter((each) => each.role === role).sort((a, b) => a.value - b.value);
  const outliers = of("outlier").reverse();
  return [
    ["bulk", BULK_COLOUR, of("bulk")],
    ...outliers.map((each, index) => [`outlier ${index + 1}`, outlierColour(index), [each]]),
    ["zeros", ZERO_COLOUR, of("zero")],
  ]
    .filter(([, , own]) => own.length)
    .map(([label, colour, own]) => ({
      label,
      colour,
      x: own.map((each) => each.value),
      y: own.map((each) => each.multiplicity),
      style: "markers",
    }));
}

function factsOf(spectrum) {
  const columns = [
    { title: "Eigenvalue", number: true },
    { title: "Multiplicity", number: true },
    { title: "Role" },
    { title: "Group" },
  ];
  const row = (each) => [number(each.value), number(each.multiplicity), each.role, each.group ?? ""];
  return [
    list([
      ["Sharpness", number(spectrum.sharpness)],
      ["Smallest", number(spectrum.smallest)],
      ["Trace", number(spectrum.trace)],
      ["Condition number", number(spectrum.condition_number)],
      ["Critical point", spectrum.critical_point],
      ["Source", spectrum.source],
    ]),
    table(columns, spectrum.eigenvalues.map(row)),
  ];
}

// The path of gradient descent, with the threshold 2 / learning rate.
function descentPlot({ outliers, bulk }, threshold) {
  const steps = outliers.map((_, index) => index);
  return {
    curves: [
      { label: "larger outlier", x: steps, y: outliers.map((each) => Math.max(...each)), colour: outlierColour(0) },
      { label: "smaller outlier", x: steps, y: outliers.map((each) => Math.min(...each)), colour: outlierColour(1) },
      { label: "bulk", x: steps, y: bulk, style: "dashed", colour: BULK_COLOUR },
      { label: "minus bulk", x: steps, y: bulk.map((each) => -each), style: "dashed", colour: BULK_COLOUR },
    ],
    xLabel: "step",
    yLabel: "eigenvalue",
    horizontal: [{ value: threshold, label: "2 / learning rate" }],
  };
}

// Whether gradient descent is stable along the path: where the sharpness is below 2 / learning rate.
function stabilityOf(outliers, threshold) {
  const above = outliers.findIndex((each) => Math.max(...each) > threshold);
  const below = outliers.length - 1 - [...outliers].reverse().findIndex((each) => Math.max(...each) <= threshold);
  const first = `2 / learning rate is ${number(threshold, 4)}. `;
  if (above < 0) return `${first}The larger outlier stays below it.`;
  if (below === outliers.length) return `${first}The larger outlier is always above it.`;
  const later = below > above ? `, and is below it again at step ${below}` : "";
  return `${first}The larger outlier first exceeds it at step ${above}${later}.`;
}

export async function closedFormView(place, { signal, settings, keepSettings }) {
  let kind = settings.get("kind") in KINDS ? settings.get("kind") : "linear";
  const values = Object.fromEntries(
    Object.entries(SLIDERS)
      .filter(([, each]) => "value" in each)
      .map(([name, each]) => [name, withinSlider(settings.get(name), each)]),
  );
  const chart = new Chart({ label: "Eigenvalues with their multiplicities", height: 260 });
  const descent = new Chart({ label: "Outliers and bulk along gradient descent", height: 260 });
  const controls = element("div");
  const facts = element("div");
  const path = element("div");
  const stability = element("p");
  const plane = element("div");
  let request = null;
  let sliders = new Map();

  function show(spectrum) {
    chart.draw({
      curves: spectrumCurves(spectrum.eigenvalues),
      xLabel: "eigenvalue",
      yLabel: "multiplicity",
      yScale: "linear",
      vertical: spectrum.eigenvalues
        .filter((each) => each.role === "outlier")
        .map((each) => ({ value: each.value, label: number(each.value, 4) })),
    });
    facts.replaceChildren(...factsOf(spectrum));
    plane.replaceChildren(planeElement(spectrum.eigenvectors, KINDS[kind].plane(values)));
    path.hidden = !spectrum.descent;
    if (spectrum.descent) {
      stability.textContent = stabilityOf(spectrum.descent.outliers, 2 / values.rate);
      descent.draw(descentPlot(spectrum.descent, 2 / values.rate));
    }
  }

  const live = new Live("v1/closed-form", {
    signal,
    show,
    fail: (error) => facts.replaceChildren(problemElement(error)),
  });

  function valueOf(name) {
    return DERIVED[name]?.of(values) ?? values[name];
  }

  function moved(name, value) {
    if (DERIVED[name]) DERIVED[name].set(values, value);
    else values[name] = value;
    for (const [other, each] of sliders) if (other !== name) each.show(valueOf(other));
    changed();
  }

  function changed() {
    const own = KINDS[kind].sliders.filter((name) => !DERIVED[name]);
    keepSettings({
      kind,
      ...Object.fromEntries(
        own.filter((name) => values[name] !== SLIDERS[name].value).map((name) => [name, values[name]]),
      ),
    });
    request = { ...KINDS[kind].request(values), eigenvectors: "outliers" };
    live.ask(request);
  }

  function arrange() {
    sliders = new Map(
      KINDS[kind].sliders.map((name) => [
        name,
        slider({ name, ...SLIDERS[name], value: valueOf(name), change: (each) => moved(name, each) }),
      ]),
    );
    controls.replaceChildren(
      choice({
        name: "kind",
        label: "Network",
        value: kind,
        options: Object.entries(KINDS).map(([name, each]) => [name, each.title]),
        change: (each) => {
          kind = each;
          arrange();
        },
      }),
      ...sliders.values(),
      element(
        "div",
        { class: "row" },
        copyButton("Copy the request", () => JSON.stringify(request)),
        copyLinkButton(),
      ),
    );
    changed();
  }

  path.append(element("h2", {}, "Along gradient descent"), stability, descent.node);
  place.append(
    element("h1", {}, "Closed forms"),
    element(
      "div",
      { class: "with-sidebar" },
      controls,
      element(
        "div",
        {},
        chart.node,
        element("h2", {}, "Eigenvectors of the outliers"),
        element(
          "p",
          { class: "muted" },
          "In the plane of the two weight vectors, separately for the entries of each. The circle has the length " +
            "of a whole eigenvector.",
        ),
        plane,
        path,
        facts,
        zoomHelp(),
      ),
    ),
  );
  arrange();
}
