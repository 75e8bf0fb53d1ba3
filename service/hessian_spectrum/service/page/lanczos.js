// The result of a Lanczos job: densities with their bands, the bulk by itself, outliers, and smoothing by sliders.

import { json } from "./api.js";
import { Chart, zoomHelp } from "./chart.js";
import { announceProblem, choice, element, list, number, scaleChoice, slider, withInterval } from "./elements.js";
import { bulkOf, conditionFromEnds, leastShown, negativeShare, outliersOf, scaleOf, within } from "./quantities.js";

const DEFAULTS = { curve: "density", y: "", kappa: "", num_points: "", margin: "", nodes: "", zoom: "" };
const LOG_OFFSET = 1e-5; // of the grid of the logarithmic density
const MOST_LABELS = 12;
const POINTS = ["1000", "10000", "100000"];

export const CURVE_TITLES = {
  density: "density",
  log_density: "density of log |eigenvalue|",
  cumulative: "cumulative",
};

// Labels and scale of the axes of a curve.
export function axesOf(curve) {
  const isLog = curve === "log_density";
  return {
    xLabel: isLog ? "|eigenvalue| + 1e-5" : "eigenvalue",
    xScale: isLog ? "log" : "linear",
    yLabel: curve === "cumulative" ? "share of eigenvalues" : "density",
  };
}

function drawn(name, { grid, values, band }) {
  return {
    label: name === "cumulative" ? "share of eigenvalues" : "density",
    x: grid,
    y: values,
    lower: band.lower,
    upper: band.upper,
  };
}

function facts(result) {
  const outliers = outliersOf(result);
  return list([
    ["Largest (sharpness)", withInterval(result.largest)],
    ["Smallest", withInterval(result.smallest)],
    ["Condition number", conditionFromEnds(result.largest, result.smallest)],
    negativeShare(result.cumulative) ?? ["", ""],
    ["Trace", withInterval(result.trace)],
    ["Frobenius norm", withInterval(result.frobenius)],
    [
      "Outliers",
      outliers.length
        ? `${outliers.length}: ${outliers
            .slice(0, MOST_LABELS)
            .map((each) => number(each, 4))
            .join(", ")}${outliers.length > MOST_LABELS ? ", …" : ""}`
        : "none",
    ],
    ["Loss", number(result.loss)],
    ["Parameters", number(result.num_parameters)],
    ["Probes", `${number(result.quadrature.length)}, of ${number(result.num_steps)} steps each`],
  ]);
}

// The plots of the whole spectrum and of its bulk.
class Plots {
  constructor(part, zoomed) {
    this.whole = new Chart({ label: "Spectral density with its 95 % band", height: 420, part, zoomed });
    this.bulk = new Chart({ label: "Spectral density of the bulk with its 95 % band", height: 260 });
    this.title = element("h3");
    this.section = element("section", {}, this.title, this.bulk.node);
    this.node = element("div", {}, this.whole.node, this.section, zoomHelp());
  }

  draw(result, { curve, y, nodes }) {
    const isLog = curve === "log_density";
    const position = (value) => (isLog ? Math.abs(value) + LOG_OFFSET : value);
    const ticks = nodes
      ? result.quadrature.flatMap((each) => each.nodes).map((value) => ({ value: position(value) }))
      : [];
    const outliers = outliersOf(result);
    const labelled = outliers
      .slice(0, MOST_LABELS)
      .map((value) => ({ value: position(value), label: number(value, 4) }));
    const common = { ...axesOf(curve), yScale: scaleOf({ curve, y }), yLeast: leastShown(result, curve) };
    this.whole.draw({ ...common, curves: [drawn(curve, result[curve])], vertical: [...ticks, ...labelled] });
    this.section.hidden = isLog || !outliers.length;
    if (this.section.hidden) return;
    const ends = bulkOf(outliers, result[curve].grid);
    this.title.textContent = `The bulk, from ${number(ends[0], 3)} to ${number(ends[1], 3)}`;
    this.bulk.draw({
      ...common,
      curves: [drawn(curve, within(ends, result[curve]))],
      vertical: ticks.filter(({ value }) => value >= ends[0] && value <= ends[1]),
    });
  }
}

// The view of a result, with sliders that smooth it again if it has an id; `show` replaces it by a newer result.
export function lanczosView(id, result, { signal, settings, keepSettings }) {
  const chosen = Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, value]) => [name, settings.get(name) ?? value]),
  );
  const zoom = chosen.zoom.split(",").map(Number);
  const plots = new Plots(zoom.length === 2 && zoom.every(Number.isFinite) ? zoom : null, (part) =>
    keep({ zoom: part?.map((each) => each.toPrecision(6)).join(",") ?? "" }),
  );
  const numbers = element("div");
  let shown = result;
  let pending = null;

  function keep(changes) {
    Object.assign(chosen, changes);
    keepSettings(Object.fromEntries(Object.entries(chosen).filter(([name, value]) => value !== DEFAULTS[name])));
  }

  function change(changes) {
    keep(changes);
    plots.draw(shown, chosen);
  }

  function show(document) {
    shown = document;
    numbers.replaceChildren(facts(shown));
    plots.draw(shown, chosen);
  }

  async function smooth(changes) {
    keep(changes);
    pending?.abort();
    pending = new AbortController();
    signal.addEventListener("abort", () => pending.abort(), { once: true });
    const query = new URLSearchParams(
      ["kappa", "num_points", "margin"].filter((name) => chosen[name]).map((name) => [name, chosen[name]]),
    );
    try {
      shown = await json(`v1/jobs/${id}/result?${query}`, { signal: pending.signal });
      plots.draw(shown, chosen);
    } catch (error) {
      if (error.name !== "AbortError") announceProblem(error);
    }
  }

  const smoothing = id
    ? [
        slider({
          name: "kappa",
          label: "Sharpness kappa",
          min: 0.08,
          max: 4,
          step: 0.02,
          value: Math.log10(Number(chosen.kappa) || result.smoothing.kappa),
          format: (each) => number(10 ** each, 3),
          change: (each) => smooth({ kappa: (10 ** each).toPrecision(3) }),
          help: "Larger values smooth the density less.",
        }),
        slider({
          name: "margin",
          label: "Margin",
          min: 0,
          max: 1,
          step: 0.01,
          value: Number(chosen.margin || result.smoothing.margin),
          change: (each) => smooth({ margin: String(each) }),
          help: "Of the grid beyond the spectrum, in widths of the spectrum.",
        }),
        choice({
          name: "num_points",
          label: "Points",
          value: chosen.num_points,
          change: (points) => smooth({ num_points: points }),
          options: [
            ["", `${number(result.smoothing.num_points)}, as computed`],
            ...POINTS.map((each) => [each, number(Number(each))]),
          ],
        }),
      ]
    : null;
  const box = element("input", {
    type: "checkbox",
    id: "nodes",
    checked: Boolean(chosen.nodes),
    change: () => change({ nodes: box.checked ? "1" : "" }),
  });
  const controls = element(
    "div",
    {},
    choice({
      name: "curve",
      label: "Curve",
      value: chosen.curve,
      change: (curve) => change({ curve }),
      options: Object.entries(CURVE_TITLES),
    }),
    scaleChoice(chosen.y, change),
    smoothing,
    element("div", { class: "field" }, box, element("label", { for: "nodes" }, " quadrature nodes")),
  );
  if (id && (chosen.kappa || chosen.num_points || chosen.margin)) smooth({});
  show(result);
  return { node: element("div", { class: "with-sidebar" }, controls, plots.node, numbers), show };
}
