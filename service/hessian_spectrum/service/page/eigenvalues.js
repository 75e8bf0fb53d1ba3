// Results that list eigenvalues: all of the matrix, or those at the ends of the spectrum with their residuals.

import { Chart, zoomHelp } from "./chart.js";
import { choice, element, list, number, scaleChoice, table, withInterval } from "./elements.js";
import { conditionFromEnds, conditionOfAll, scaleOf } from "./quantities.js";

const MOST_PAIRS = 200;
const MOST_MARKERS = 300;
const MOST_BINS = 120;
const LEAST_LOG_HEIGHT = 0.5; // logarithmic axes have no 0
const COUNT = "number of eigenvalues";

function ranked(label, values) {
  return {
    label,
    x: values.map((_, index) => index + 1),
    y: values,
    style: values.length > MOST_MARKERS ? "line" : "line-markers",
  };
}

function histogram(ascending, repeated, least) {
  const first = ascending[0];
  const count = Math.min(MOST_BINS, Math.max(10, Math.floor(ascending.length / 4)));
  const width = (ascending.at(-1) - first) / count || 1;
  const heights = Array(count + 1).fill(0); // one more, at which the last step ends
  const add = (value, times) => {
    heights[Math.max(0, Math.min(count - 1, Math.floor((value - first) / width)))] += times;
  };
  for (const value of ascending) add(value, 1);
  if (repeated) add(repeated.value, repeated.multiplicity);
  return {
    label: COUNT,
    x: heights.map((_, index) => first + width * index),
    y: heights.map((each) => Math.max(each, least)),
    style: "step",
  };
}

// The share of eigenvalues up to each of them.
export function cumulative(ascending, repeated, count) {
  let passed = 0;
  const counted = [
    ...ascending.map((value) => [value, 1]),
    ...(repeated ? [[repeated.value, repeated.multiplicity]] : []),
  ].sort((a, b) => a[0] - b[0]);
  const shares = counted.map(([, times]) => (passed += times) / count);
  return { label: "share of eigenvalues", x: counted.map(([value]) => value), y: shares, style: "step" };
}

// name -> [title, what to draw], of eigenvalues in ascending order.
const CURVES = {
  rank: [
    "by rank",
    (ascending) => ({ curves: [ranked("eigenvalue", ascending.toReversed())], xLabel: "rank", yLabel: "eigenvalue" }),
  ],
  magnitude: [
    "magnitudes by rank",
    (ascending, { zero_threshold: threshold }) => ({
      curves: [
        ranked("positive", ascending.filter((each) => each > threshold).reverse()),
        ranked(
          "negative",
          ascending.filter((each) => each < -threshold).map((each) => -each),
        ),
      ].filter(({ x }) => x.length),
      xLabel: "rank among those of its sign",
      yLabel: "|eigenvalue|",
    }),
  ],
  histogram: [
    "histogram",
    (ascending, { repeated }, scale) => ({
      curves: [histogram(ascending, repeated, scale === "log" ? LEAST_LOG_HEIGHT : 0)],
      xLabel: "eigenvalue",
      yLabel: COUNT,
    }),
  ],
  cumulative: [
    "cumulative",
    (ascending, { repeated, num_parameters: count }) => ({
      curves: [cumulative(ascending, repeated, count)],
      xLabel: "eigenvalue",
      yLabel: "share of eigenvalues",
    }),
  ],
};

function exactFacts(result, ascending) {
  const { negative, zero, positive } = result.inertia;
  const all = result.repeated ? [...ascending, result.repeated.value] : ascending;
  return list([
    ["Largest (sharpness)", number(all.reduce((a, b) => Math.max(a, b)))],
    ["Smallest", number(all.reduce((a, b) => Math.min(a, b)))],
    ["Condition number", conditionOfAll(all, result.zero_threshold, zero)],
    ["Trace", withInterval(result.trace)],
    ["Inertia", `${number(negative)} negative, ${number(zero)} zero, ${number(positive)} positive`],
    [
      "Repeated",
      result.repeated ? `${number(result.repeated.value)}, ${number(result.repeated.multiplicity)} times` : "",
    ],
    ["Loss", number(result.loss)],
    ["Parameters", number(result.num_parameters)],
  ]);
}

export function exactView(id, result, { settings, keepSettings }) {
  const ascending = [...result.eigenvalues].sort((a, b) => a - b);
  const chosen = {
    curve: settings.get("curve") in CURVES ? settings.get("curve") : "rank",
    y: settings.get("y") ?? "",
  };
  const chart = new Chart({ label: "All eigenvalues", height: 400 });

  function draw() {
    const yScale = scaleOf(chosen);
    chart.draw({ ...CURVES[chosen.curve][1](ascending, result, yScale), yScale });
  }

  function change(changes) {
    Object.assign(chosen, changes);
    keepSettings({ curve: chosen.curve === "rank" ? "" : chosen.curve, y: chosen.y });
    draw();
  }

  const controls = element(
    "div",
    {},
    choice({
      name: "curve",
      label: "Curve",
      value: chosen.curve,
      options: Object.entries(CURVES).map(([name, [title]]) => [name, title]),
      change: (curve) => change({ curve }),
    }),
    scaleChoice(chosen.y, change),
  );
  draw();
  return element(
    "div",
    { class: "with-sidebar" },
    controls,
    element("div", {}, chart.node, zoomHelp()),
    exactFacts(result, ascending),
  );
}

function topFacts({ which, eigenpairs: pairs, loss, num_parameters: count }) {
  const [first, last] = [pairs[0], pairs.at(-1)];
  return list([
    ["Largest (sharpness)", ["largest", "both-ends"].includes(which) ? withInterval(first) : ""],
    [
      "Smallest",
      ["smallest", "both-ends"].includes(which) ? withInterval(last.value < first.value ? last : first) : "",
    ],
    ["Condition number", which === "both-ends" ? conditionFromEnds(first, last) : ""],
    ["Loss", number(loss)],
    ["Parameters", number(count)],
  ]);
}

// The pairs by the end of the spectrum from which they are counted.
function endsOf({ which, eigenpairs: pairs }) {
  if (which !== "both-ends") return [["eigenvalue", pairs]];
  const count = Math.ceil(pairs.length / 2);
  return [
    ["from the largest", pairs.slice(0, count)],
    ["from the smallest", pairs.slice(count).reverse()],
  ].filter(([, own]) => own.length);
}

export function topView(id, result) {
  const pairs = result.eigenpairs;
  const chart = new Chart({ label: "Eigenvalues with their intervals" });
  chart.draw({
    curves: endsOf(result).map(([label, own]) => ({
      ...ranked(
        label,
        own.map((each) => each.value),
      ),
      lower: own.map((each) => each.lower ?? each.value),
      upper: own.map((each) => each.upper ?? each.value),
    })),
    xLabel: result.which === "both-ends" ? "rank from its end of the spectrum" : "rank",
    yLabel: "eigenvalue",
  });
  const rows = pairs
    .slice(0, MOST_PAIRS)
    .map((pair, index) => [
      String(index + 1),
      withInterval(pair, 8),
      number(pair.residual, 3),
      pair.converged ? "yes" : element("span", { class: "error" }, `no${pair.why ? `: ${pair.why}` : ""}`),
    ]);
  return element(
    "div",
    {},
    topFacts(result),
    chart.node,
    zoomHelp(),
    table(
      [
        { title: "Number", number: true },
        { title: "Eigenvalue [95 % interval]" },
        { title: "Residual", number: true },
        { title: "Converged" },
      ],
      rows,
      pairs.length > MOST_PAIRS ? `The first ${MOST_PAIRS} of ${pairs.length} pairs` : null,
    ),
  );
}
