// Closed forms with sliders for what they depend on: norms, alignment, moments of the data, attention sinks.

import { Chart, zoomHelp } from "./chart.js";
import { choice, copyButton, element, list, number, problemElement, slider, table } from "./elements.js";
import { Live } from "./live.js";

const SIZE = 6;
const LENGTH = 4;
const NUM_SEQUENCES = 3;
const STEPS = 60;

// Vectors of these norms with this cosine, in the plane of the first two coordinates.
function pair(first, second, cosine) {
  const zeros = Array(SIZE - 2).fill(0);
  return [[first, 0, ...zeros], [second * cosine, second * Math.sqrt(Math.max(0, 1 - cosine ** 2)), ...zeros]];
}

// Neurons of one cell: weights w of one sign, and v with this cosine to them.
function cell(sign, { w, v, cosine }) {
  const along = Array(3).fill(sign / Math.sqrt(3));
  const across = [Math.SQRT1_2, -Math.SQRT1_2, 0];
  const sine = Math.sqrt(Math.max(0, 1 - cosine ** 2));
  return [along.map((each) => w * each), along.map((each, index) => v * (cosine * each + sine * across[index]))];
}

// Numbers that look random and are always the same.
function sample(index) {
  const angle = Math.sin(12.9898 * (index + 1)) * 43758.5453;
  return 2 * (angle - Math.floor(angle)) - 1;
}

const SLIDERS = {
  w: { label: "Norm of w", min: 0, max: 5, step: 0.01, value: 1.5 },
  v: { label: "Norm of v", min: 0, max: 5, step: 0.01, value: 1 },
  cosine: { label: "Alignment: cosine of the angle between w and v", min: -1, max: 1, step: 0.01, value: 0.3 },
  moment: { label: "Mean of x²", min: 0.05, max: 5, step: 0.01, value: 1 },
  covariance: { label: "Mean of x y", min: -5, max: 5, step: 0.01, value: 2 },
  positive: { label: "Mean of x y over x > 0", min: -5, max: 5, step: 0.01, value: 2 },
  negative: { label: "Mean of x y over x < 0", min: -5, max: 5, step: 0.01, value: -1 },
  rate: { label: "Learning rate", min: 0.01, max: 1.5, step: 0.01, value: 0.2 },
  query: { label: "Norm of the query weights", min: 0, max: 8, step: 0.01, value: 1 },
  key: { label: "Norm of the key weights", min: 0, max: 8, step: 0.01, value: 1 },
  alignment: { label: "Alignment of query and key weights", min: -1, max: 1, step: 0.01, value: 0.5 },
  value: { label: "Value weight", min: -3, max: 3, step: 0.01, value: 0.9 },
  sink: { label: "Bias of the attention sink", min: 0, max: 10, step: 0.05, value: 0 },
};

const KINDS = {
  linear: {
    title: "Two-layer linear network", sliders: ["w", "v", "cosine", "moment", "covariance", "rate"],
    request: (s) => {
      const [w, v] = pair(s.w, s.v, s.cosine);
      const x = Math.sqrt(s.moment);
      return { model: { kind: "linear", w, v }, data: { x: [x], y: [s.covariance / x] }, descent: { learning_rate: s.rate, num_steps: STEPS } };
    },
  },
  relu: {
    title: "Two-layer ReLU network", sliders: ["w", "v", "cosine", "moment", "positive", "negative"],
    request: (s) => {
      const cells = [1, -1].map((sign) => cell(sign, s));
      const x = Math.sqrt(s.moment);
      return { model: { kind: "relu", w: cells.flatMap(([w]) => w), v: cells.flatMap(([, v]) => v) },
        data: { x: [x, -x], y: [s.positive / x, -s.negative / x] } };
    },
  },
  "self-attention": {
    title: "Self-attention with a sink", sliders: ["query", "key", "alignment", "value", "sink"],
    request: (s) => {
      const [query, key] = pair(s.query, s.key, s.alignment);
      const rows = Array.from({ length: NUM_SEQUENCES }, (_, row) => Array.from({ length: LENGTH }, (__, column) => sample(row * LENGTH + column)));
      return { model: { kind: "self-attention", w_v: s.value, w_q: query, w_k: key, sink_bias: s.sink },
        data: { x: rows, y: rows.map((row) => [...row].reverse()) } };
    },
  },
};

function spectrumCurves(eigenvalues) {
  return ["bulk", "outlier", "zero"].map((role, index) => {
    const own = eigenvalues.filter((each) => each.role === role).sort((a, b) => a.value - b.value);
    return { label: { bulk: "bulk", outlier: "outliers", zero: "zeros" }[role], x: own.map((each) => each.value), y: own.map((each) => each.multiplicity),
      style: "markers", group: index };
  }).filter((each) => each.x.length);
}

export async function closedFormView(place, { signal, settings, keepSettings }) {
  let kind = settings.get("kind") in KINDS ? settings.get("kind") : "linear";
  const values = Object.fromEntries(Object.entries(SLIDERS).map(([name, each]) => [name, Number(settings.get(name) ?? each.value)]));
  const chart = new Chart({ label: "Eigenvalues with their multiplicities", height: 260 });
  const descent = new Chart({ label: "Outliers and bulk along gradient descent", height: 260 });
  const controls = element("div");
  const facts = element("div");
  const path = element("div");
  let request = null;

  function show(spectrum) {
    chart.draw({ curves: spectrumCurves(spectrum.eigenvalues), xLabel: "eigenvalue", yLabel: "multiplicity", yScale: "linear",
      vertical: spectrum.eigenvalues.filter((each) => each.role === "outlier").map((each) => ({ value: each.value, label: number(each.value, 4) })) });
    facts.replaceChildren(
      list([["Sharpness", number(spectrum.sharpness)], ["Smallest", number(spectrum.smallest)], ["Trace", number(spectrum.trace)],
        ["Condition number", number(spectrum.condition_number)], ["Critical point", spectrum.critical_point], ["Source", spectrum.source]]),
      table([{ title: "Eigenvalue", number: true }, { title: "Multiplicity", number: true }, { title: "Role" }, { title: "Group" }],
        spectrum.eigenvalues.map((each) => [number(each.value), number(each.multiplicity), each.role, each.group ?? ""])));
    path.hidden = !spectrum.descent;
    if (spectrum.descent) {
      const { outliers, bulk } = spectrum.descent;
      const steps = outliers.map((_, index) => index);
      descent.draw({ curves: [
        { label: "larger outlier", x: steps, y: outliers.map((each) => Math.max(...each)) },
        { label: "smaller outlier", x: steps, y: outliers.map((each) => Math.min(...each)) },
        { label: "bulk", x: steps, y: bulk, style: "dashed" }, { label: "minus bulk", x: steps, y: bulk.map((each) => -each), style: "dashed", group: 2 }],
        xLabel: "step", yLabel: "eigenvalue", horizontal: [{ value: 2 / values.rate, label: "2 / learning rate" }] });
    }
  }

  const live = new Live("v1/closed-form", { signal, show, fail: (error) => facts.replaceChildren(problemElement(error)) });

  function changed() {
    const own = KINDS[kind].sliders;
    keepSettings({ kind, ...Object.fromEntries(own.filter((name) => values[name] !== SLIDERS[name].value).map((name) => [name, values[name]])) });
    request = KINDS[kind].request(values);
    live.ask(request);
  }

  function arrange() {
    controls.replaceChildren(
      choice({ name: "kind", label: "Network", value: kind, options: Object.entries(KINDS).map(([name, each]) => [name, each.title]),
        change: (each) => { kind = each; arrange(); } }),
      ...KINDS[kind].sliders.map((name) => slider({ name, ...SLIDERS[name], value: values[name], change: (each) => { values[name] = each; changed(); } })),
      copyButton("Copy the request", () => JSON.stringify(request)), copyButton("Copy the link", () => location.href));
    changed();
  }

  path.append(element("h2", {}, "Along gradient descent"), descent.node);
  place.append(element("h1", {}, "Closed forms"),
    element("div", { class: "with-sidebar" }, controls, element("div", {}, chart.node, path, facts, zoomHelp())));
  arrange();
}
