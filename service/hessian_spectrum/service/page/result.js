// The result of a job: numbers with their intervals, plots, provenance and downloads.

import { download, send } from "./api.js";
import { Chart, panelChart, zoomHelp } from "./chart.js";
import { exactView, topView } from "./eigenvalues.js";
import {
  announceProblem,
  choice,
  copyButton,
  element,
  list,
  number,
  shortId,
  table,
  withInterval,
} from "./elements.js";
import { lanczosView } from "./lanczos.js";

const FORMATS = ["json", "npz", "csv", "svg", "png", "pdf"];

export function downloads(id, document) {
  return element(
    "div",
    { class: "row" },
    FORMATS.map((format) =>
      element(
        "button",
        {
          type: "button",
          click: async () => {
            try {
              await download(`v1/jobs/${id}/result.${format}`, `${shortId(id)}.${format}`);
            } catch (error) {
              announceProblem(error);
            }
          },
        },
        format.toUpperCase(),
      ),
    ),
    copyButton("Copy JSON", () => JSON.stringify(document, null, 1)),
  );
}

export async function resultElement(id, result, context) {
  switch (result.kind) {
    case "spectrum":
      return spectrum(id, result, context);
    case "spectrum-set":
      return spectrumSet(id, result, context);
    case "figure":
      return figure(result);
    case "sweep":
      return sweep(id, result);
    case "series":
      return series(id, result);
    default:
      return picture(id);
  }
}

async function spectrum(id, result, context) {
  const methods = {
    lanczos: (...all) => lanczosView(...all).node,
    exact: exactView,
    "top-k": topView,
    trace: traceResult,
  };
  const own = methods[result.method];
  return element(
    "div",
    {},
    own ? await own(id, result, context) : await picture(id),
    training(result),
    provenance(result),
  );
}

function spectrumSet(id, result, context) {
  const place = element("div");
  const names = result.spectra.map((each, index) => [
    String(index),
    [each.block, each.attention_sink ? `sink ${number(each.attention_sink.bias, 4)}` : null]
      .filter(Boolean)
      .join(", ") || `spectrum ${index + 1}`,
  ]);
  async function show(index) {
    place.replaceChildren(await spectrum(null, result.spectra[Number(index)], context));
  }
  show("0");
  return element(
    "div",
    {},
    choice({ name: "spectrum", label: "Spectrum", options: names, value: "0", change: show }),
    place,
  );
}

function traceResult(id, result) {
  return list([
    ["Trace", withInterval(result.trace)],
    ["Frobenius norm", withInterval(result.frobenius)],
    ["Products", number(result.trace.num_products)],
    ["Estimator", result.estimator],
    ["Loss", number(result.loss)],
    ["Parameters", number(result.num_parameters)],
  ]);
}

function training(result) {
  const report = result.training;
  if (!report) return null;
  return element(
    "section",
    {},
    element("h2", {}, "Training"),
    lossCurve(report.loss_curve),
    list([
      ["Steps", number(report.num_steps)],
      ["Optimizer", report.optimizer],
      ["Loss", `${number(report.initial_loss)} → ${number(report.final_loss)}`],
      ["Norm of the gradient", number(report.gradient_norm)],
      ["Final learning rate", number(report.final_learning_rate)],
      ["Stopped by", report.stopped],
    ]),
  );
}

function lossCurve(curve) {
  if (!curve?.steps.length) return null;
  const chart = new Chart({ label: "Loss along training", height: 260 });
  const isLog = curve.losses.every((loss) => loss > 0);
  chart.draw({
    curves: [{ label: "loss of batches", x: curve.steps, y: curve.losses }],
    xLabel: "steps",
    yLabel: "loss",
    yScale: isLog ? "log" : "linear",
  });
  return chart.node;
}

function provenance(result) {
  const origin = result.provenance;
  if (!origin) return null;
  const pairs = Object.entries(origin).map(([name, value]) => [
    name.replaceAll("_", " "),
    value === null || value === false
      ? ""
      : typeof value === "object"
        ? Object.entries(value)
            .map(([key, each]) => `${key} ${each}`)
            .join(", ")
        : typeof value === "number"
          ? number(value)
          : String(value),
  ]);
  return element("details", {}, element("summary", {}, "Provenance"), list(pairs));
}

const VERDICTS = new Map([
  [true, ["holds", "holds"]],
  [false, ["does not hold", "fails"]],
  [null, ["not decided", "muted"]],
]);

export function verdictTable(verdicts) {
  const rows = verdicts.map((each) => {
    const [text, name] = VERDICTS.get(each.holds);
    const variants = each.variants.length
      ? element(
          "details",
          {},
          element("summary", {}, `${each.variants.length} variants`),
          element(
            "ul",
            {},
            each.variants.map((variant) =>
              element("li", {}, `${variant.choice}: ${VERDICTS.get(variant.holds)[0]} (${withInterval(variant, 4)})`),
            ),
          ),
        )
      : null;
    return [
      element(
        "div",
        {},
        each.claim,
        element("small", { class: "muted" }, ` ${each.quantity}${each.note ? `; ${each.note}` : ""}`),
        variants,
      ),
      element("span", { class: name }, text),
      withInterval(each, 4),
      each.threshold_upper === null || each.threshold_upper === undefined
        ? number(each.threshold, 4)
        : `${number(each.threshold, 4)} to ${number(each.threshold_upper, 4)}`,
    ];
  });
  return table(
    [
      { title: "Claim" },
      { title: "Verdict" },
      { title: "Found [95 % interval]" },
      { title: "Threshold", number: true },
    ],
    rows,
  );
}

function figure(result) {
  const choices = element(
    "details",
    {},
    element("summary", {}, "Choices that the source leaves open"),
    list(result.choices.map((each) => [`${each.name}: ${each.value}`, each.reason])),
  );
  return element(
    "div",
    {},
    element("h2", {}, result.title),
    element("p", { class: "muted" }, result.source),
    element("div", { class: "columns" }, result.panels.map(panelChart)),
    zoomHelp(),
    element("h2", {}, "Verdicts"),
    verdictTable(result.verdicts),
    choices,
  );
}

async function sweep(id, result) {
  const names = Object.keys(result.columns);
  const count = result.columns[names[0]]?.length ?? 0;
  const rows = Array.from({ length: Math.min(count, 500) }, (_, row) =>
    names.map((name) => {
      const cell = result.columns[name][row];
      return typeof cell === "number" ? number(cell, 5) : cell === null ? "" : String(cell);
    }),
  );
  return element(
    "div",
    {},
    await picture(id),
    table(
      names.map((title) => ({ title })),
      rows,
      count > 500 ? `The first 500 of ${count} points` : null,
    ),
  );
}

async function series(id, result) {
  return element(
    "div",
    {},
    element(
      "p",
      {},
      element("a", { href: `#/series/${encodeURIComponent(result.name)}` }, `All points of the series ${result.name}`),
    ),
    await picture(id),
  );
}

export async function picture(id, path = `v1/jobs/${id}/result.svg`) {
  const response = await send(path);
  const url = URL.createObjectURL(await response.blob());
  const image = element("img", { class: "picture", src: url, alt: "Plot of the result" });
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  return image;
}
