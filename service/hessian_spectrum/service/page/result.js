// The result of a job: numbers with their intervals, plots, provenance and downloads.

import { download, json, send } from "./api.js";
import { Chart, panelChart, zoomHelp } from "./chart.js";
import { announce, choice, copyButton, element, list, number, shortId, slider, table, withInterval } from "./elements.js";

const FORMATS = ["json", "npz", "csv", "svg", "png", "pdf"];
const MOST_PAIRS = 200;

export function downloads(id, document) {
  return element("div", { class: "row" }, FORMATS.map((format) =>
    element("button", { type: "button", click: async () => {
      try {
        await download(`v1/jobs/${id}/result.${format}`, `${shortId(id)}.${format}`);
      } catch (error) {
        announce(`${error.problem?.title ?? error}: ${error.problem?.detail ?? ""}`);
      }
    } }, format.toUpperCase())),
    copyButton("Copy JSON", () => JSON.stringify(document, null, 1)));
}

export async function resultElement(id, result, context) {
  switch (result.kind) {
    case "spectrum": return spectrum(id, result, context);
    case "spectrum-set": return spectrumSet(id, result, context);
    case "figure": return figure(result);
    case "sweep": return sweep(id, result);
    case "series": return series(id, result);
    default: return picture(id);
  }
}

async function spectrum(id, result, context) {
  const methods = { lanczos, exact, "top-k": topK, trace: traceResult };
  const own = methods[result.method];
  return element("div", {}, own ? await own(id, result, context) : await picture(id), training(result), provenance(result));
}

function spectrumSet(id, result, context) {
  const place = element("div");
  const names = result.spectra.map((each, index) => [String(index),
    [each.block, each.attention_sink ? `sink ${number(each.attention_sink.bias, 4)}` : null].filter(Boolean).join(", ") || `spectrum ${index + 1}`]);
  async function show(index) {
    place.replaceChildren(await spectrum(null, result.spectra[Number(index)], context));
  }
  show("0");
  return element("div", {}, choice({ name: "spectrum", label: "Spectrum", options: names, value: "0", change: show }), place);
}

// Ritz values beyond the bulk that have a whole eigenvalue's weight: what a reader would call outliers.
function outliersOf(result) {
  const share = 0.5 / result.num_parameters;
  const width = Math.max(Math.abs(result.largest.value), Math.abs(result.smallest.value));
  const nodes = result.quadrature.flatMap(({ nodes: own, weights, residuals }) =>
    own.filter((node, index) => weights[index] < 20 * share + 0.02 && residuals && Math.abs(residuals[index]) < 1e-3 * width && Math.abs(node) > 0.05 * width));
  const found = [];
  for (const node of nodes.sort((a, b) => b - a)) {
    if (!found.length || found.at(-1) - node > 0.01 * width) found.push(node);
  }
  return found.slice(0, 12);
}

// A Lanczos result that `show` replaces by a newer one of the same job; without an id it is not smoothed again.
export function lanczosView(id, result, { signal, settings, keepSettings }) {
  const chosen = { curve: settings.get("curve") ?? "density", y: settings.get("y") ?? "linear", kappa: settings.get("kappa") ?? "",
    nodes: settings.get("nodes") ?? "" };
  const chart = new Chart({ label: "Spectral density with its 95 % band", height: 440 });
  const numbers = element("div");
  let shown = result;
  let pending = null;

  function draw() {
    const isLog = chosen.curve === "log_density";
    const { grid, values, band } = shown[chosen.curve];
    const nodes = chosen.nodes ? shown.quadrature.flatMap((each) => each.nodes).map((value) => ({ value: isLog ? Math.abs(value) + 1e-5 : value })) : [];
    const outliers = outliersOf(shown).map((value) => ({ value: isLog ? Math.abs(value) + 1e-5 : value, label: number(value, 4) }));
    chart.draw({
      curves: [{ label: chosen.curve === "cumulative" ? "share of eigenvalues" : "density", x: grid, y: values, lower: band.lower, upper: band.upper,
        style: chosen.curve === "cumulative" ? "step" : "line" }],
      xLabel: isLog ? "|eigenvalue| + 1e-5" : "eigenvalue", yLabel: chosen.curve === "cumulative" ? "share of eigenvalues" : "density",
      xScale: isLog ? "log" : "linear", yScale: chosen.y, vertical: [...nodes, ...outliers],
    });
  }

  function show(document) {
    shown = document;
    numbers.replaceChildren(list([["Largest", withInterval(shown.largest)], ["Smallest", withInterval(shown.smallest)],
      ["Trace", withInterval(shown.trace)], ["Frobenius norm", withInterval(shown.frobenius)], ["Loss", number(shown.loss)],
      ["Parameters", number(shown.num_parameters)], ["Probes", `${number(shown.quadrature.length)}, of ${number(shown.num_steps)} steps each`]]));
    draw();
  }

  function change(changes) {
    Object.assign(chosen, changes);
    keepSettings({ ...chosen, curve: chosen.curve === "density" ? "" : chosen.curve, y: chosen.y === "linear" ? "" : chosen.y });
    draw();
  }

  async function smooth(kappa) {
    chosen.kappa = kappa.toPrecision(3);
    pending?.abort();
    pending = new AbortController();
    signal.addEventListener("abort", () => pending.abort(), { once: true });
    try {
      shown = await json(`v1/jobs/${id}/result?kappa=${chosen.kappa}`, { signal: pending.signal });
      change({});
    } catch (error) {
      if (error.name !== "AbortError") announce(error.problem?.title ?? String(error));
    }
  }

  const box = element("input", { type: "checkbox", id: "nodes", checked: Boolean(chosen.nodes), change: () => change({ nodes: box.checked ? "1" : "" }) });
  const controls = element("div", {},
    choice({ name: "curve", label: "Curve", value: chosen.curve, change: (curve) => change({ curve }),
      options: [["density", "density"], ["log_density", "density of log |eigenvalue|"], ["cumulative", "cumulative"]] }),
    choice({ name: "y", label: "Vertical axis", value: chosen.y, change: (y) => change({ y }), options: [["linear", "linear"], ["log", "logarithmic"]] }),
    id ? slider({ name: "kappa", label: "Sharpness kappa", min: 0.08, max: 4, step: 0.02, value: Math.log10(Number(chosen.kappa) || result.smoothing.kappa),
      format: (each) => number(10 ** each, 3), change: (each) => smooth(10 ** each), help: "Larger values smooth the density less." }) : null,
    element("div", { class: "field" }, box, element("label", { for: "nodes" }, " quadrature nodes")), numbers);
  if (chosen.kappa && id) smooth(Number(chosen.kappa));
  show(result);
  return { node: element("div", { class: "with-sidebar" }, controls, element("div", {}, chart.node, zoomHelp())), show };
}

function lanczos(id, result, context) {
  return lanczosView(id, result, context).node;
}

function exact(id, result) {
  const values = result.eigenvalues;
  const chart = new Chart({ label: "Eigenvalues in descending order", height: 400 });
  const descending = [...values].sort((a, b) => b - a);
  chart.draw({ curves: [{ label: "eigenvalue", x: descending.map((_, index) => index + 1), y: descending, style: descending.length > 300 ? "line" : "line-markers" }],
    xLabel: "rank", yLabel: "eigenvalue", yScale: "linear" });
  const { negative, zero, positive } = result.inertia;
  return element("div", { class: "with-sidebar" },
    list([["Largest", number(descending[0])], ["Smallest", number(descending.at(-1))], ["Trace", withInterval(result.trace)],
      ["Negative, zero, positive", `${number(negative)}, ${number(zero)}, ${number(positive)}`],
      ["Repeated", result.repeated ? `${number(result.repeated.value)}, ${number(result.repeated.multiplicity)} times` : ""],
      ["Loss", number(result.loss)], ["Parameters", number(result.num_parameters)]]),
    element("div", {}, chart.node, zoomHelp()));
}

function topK(id, result) {
  const chart = new Chart({ label: "Eigenvalues with their intervals" });
  const pairs = result.eigenpairs;
  chart.draw({ curves: [{ label: "eigenvalue", x: pairs.map((_, index) => index + 1), y: pairs.map((each) => each.value),
    lower: pairs.map((each) => each.lower ?? each.value), upper: pairs.map((each) => each.upper ?? each.value), style: "line-markers" }],
    xLabel: "number", yLabel: "eigenvalue" });
  const rows = pairs.slice(0, MOST_PAIRS).map((pair, index) => [String(index + 1), withInterval(pair, 8), number(pair.residual, 3),
    pair.converged ? "yes" : element("span", { class: "error", title: pair.why ?? "" }, "no")]);
  return element("div", {}, chart.node,
    table([{ title: "Number", number: true }, { title: "Eigenvalue [95 % interval]" }, { title: "Residual", number: true }, { title: "Converged" }], rows,
      pairs.length > MOST_PAIRS ? `The first ${MOST_PAIRS} of ${pairs.length} pairs` : null));
}

function traceResult(id, result) {
  return list([["Trace", withInterval(result.trace)], ["Frobenius norm", withInterval(result.frobenius)], ["Products", number(result.trace.num_products)],
    ["Estimator", result.estimator], ["Loss", number(result.loss)], ["Parameters", number(result.num_parameters)]]);
}

function training(result) {
  const report = result.training;
  if (!report) return null;
  return element("section", {}, element("h2", {}, "Training"), list([["Steps", number(report.num_steps)], ["Optimizer", report.optimizer],
    ["Loss", `${number(report.initial_loss)} → ${number(report.final_loss)}`], ["Norm of the gradient", number(report.gradient_norm)],
    ["Final learning rate", number(report.final_learning_rate)], ["Stopped by", report.stopped]]));
}

function provenance(result) {
  const origin = result.provenance;
  if (!origin) return null;
  const pairs = Object.entries(origin).map(([name, value]) => [name.replaceAll("_", " "),
    value === null || value === false ? "" : typeof value === "object" ? Object.entries(value).map(([key, each]) => `${key} ${each}`).join(", ") : typeof value === "number" ? number(value) : String(value)]);
  return element("details", {}, element("summary", {}, "Provenance"), list(pairs));
}

const VERDICTS = new Map([[true, ["holds", "holds"]], [false, ["does not hold", "fails"]], [null, ["not decided", "muted"]]]);

export function verdictTable(verdicts) {
  const rows = verdicts.map((each) => {
    const [text, name] = VERDICTS.get(each.holds);
    const variants = each.variants.length
      ? element("details", {}, element("summary", {}, `${each.variants.length} variants`), element("ul", {}, each.variants.map((variant) =>
        element("li", {}, `${variant.choice}: ${VERDICTS.get(variant.holds)[0]} (${withInterval(variant, 4)})`)))) : null;
    return [element("div", {}, each.claim, element("small", { class: "muted" }, ` ${each.quantity}${each.note ? `; ${each.note}` : ""}`), variants),
      element("span", { class: name }, text), withInterval(each, 4), each.threshold_upper === null || each.threshold_upper === undefined
        ? number(each.threshold, 4) : `${number(each.threshold, 4)} to ${number(each.threshold_upper, 4)}`];
  });
  return table([{ title: "Claim" }, { title: "Verdict" }, { title: "Found [95 % interval]" }, { title: "Threshold", number: true }], rows);
}

function figure(result) {
  const choices = element("details", {}, element("summary", {}, "Choices that the source leaves open"),
    list(result.choices.map((each) => [`${each.name}: ${each.value}`, each.reason])));
  return element("div", {}, element("h2", {}, result.title), element("p", { class: "muted" }, result.source),
    element("div", { class: "columns" }, result.panels.map(panelChart)), zoomHelp(), element("h2", {}, "Verdicts"), verdictTable(result.verdicts), choices);
}

async function sweep(id, result) {
  const names = Object.keys(result.columns);
  const count = result.columns[names[0]]?.length ?? 0;
  const rows = Array.from({ length: Math.min(count, 500) }, (_, row) => names.map((name) => {
    const cell = result.columns[name][row];
    return typeof cell === "number" ? number(cell, 5) : cell === null ? "" : String(cell);
  }));
  return element("div", {}, await picture(id), table(names.map((title) => ({ title })), rows, count > 500 ? `The first 500 of ${count} points` : null));
}

async function series(id, result) {
  return element("div", {}, element("p", {}, element("a", { href: `#/series/${encodeURIComponent(result.name)}` }, `All points of the series ${result.name}`)), await picture(id));
}

export async function picture(id, path = `v1/jobs/${id}/result.svg`) {
  const response = await send(path);
  const url = URL.createObjectURL(await response.blob());
  const image = element("img", { class: "picture", src: url, alt: "Plot of the result" });
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  return image;
}
