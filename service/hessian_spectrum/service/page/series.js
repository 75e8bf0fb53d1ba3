// The numbers along a training run.

import { json } from "./api.js";
import { Chart, zoomHelp } from "./chart.js";
import { element, number, problemElement, table, withInterval } from "./elements.js";

export async function seriesView(place, { signal, parameters }) {
  const name = parameters[0] ?? "";
  const input = element("input", { id: "name", type: "search", value: name, required: true });
  place.append(
    element("h1", {}, "Series"),
    element(
      "form",
      {
        class: "row",
        submit: (event) => {
          event.preventDefault();
          location.hash = `#/series/${encodeURIComponent(input.value.trim())}`;
        },
      },
      element("label", { for: "name" }, "Name"),
      input,
      element("button", { type: "submit" }, "Show"),
    ),
  );
  if (!name) {
    place.append(await names(signal));
    return;
  }
  let series;
  try {
    series = await json(`v1/series/${encodeURIComponent(name)}`, { signal });
  } catch (error) {
    if (error.name !== "AbortError") place.append(problemElement(error));
    return;
  }
  draw(place, series);
}

async function names(signal) {
  const { jobs } = await json("v1/jobs?page_size=200", { signal });
  const found = [
    ...new Set(
      jobs
        .filter((job) => job.kind === "series")
        .map((job) => job.tags.series)
        .filter(Boolean),
    ),
  ];
  return found.length
    ? element(
        "ul",
        {},
        found.map((each) => element("li", {}, element("a", { href: `#/series/${encodeURIComponent(each)}` }, each))),
      )
    : element(
        "p",
        {},
        "No series is among the newest jobs. A training loop records one with ",
        element("code", {}, "client.track"),
        ".",
      );
}

function draw(place, { points, matrix }) {
  const steps = points.map((each) => each.step);
  const curveOf = (label, key) =>
    points.some((each) => each[key])
      ? [
          {
            label,
            x: steps,
            y: points.map((each) => each[key]?.value ?? null),
            lower: points.map((each) => each[key]?.lower ?? each[key]?.value ?? null),
            upper: points.map((each) => each[key]?.upper ?? each[key]?.value ?? null),
            style: "line-markers",
          },
        ]
      : [];
  const threshold = points.some((each) => each.stability_threshold !== null)
    ? [{ label: "2 / learning rate", x: steps, y: points.map((each) => each.stability_threshold), style: "dashed" }]
    : [];
  const ends = [
    ...curveOf("largest eigenvalue", "largest"),
    ...curveOf("smallest eigenvalue", "smallest"),
    ...threshold,
  ];
  // where the sharpness first exceeds what gradient descent with this learning rate tolerates
  const first = points.find(
    (each) => each.largest && each.stability_threshold !== null && each.largest.value > each.stability_threshold,
  );
  const panels = [
    ["Eigenvalues", ends, "eigenvalue"],
    ["Trace", curveOf("trace", "trace"), "trace"],
    ["Loss", [{ label: "loss", x: steps, y: points.map((each) => each.loss), style: "line-markers" }], "loss"],
  ];
  place.append(
    element(
      "p",
      { class: "muted" },
      `${points.length} points, matrix: ${matrix}. ${
        !threshold.length
          ? ""
          : first
            ? `The largest eigenvalue first exceeds 2 / learning rate at step ${number(first.step)}.`
            : "The largest eigenvalue stays below 2 / learning rate."
      }`,
    ),
  );
  for (const [title, curves, yLabel] of panels) {
    if (!curves.length) continue;
    const chart = new Chart({ label: `${title} along the run`, height: 300 });
    place.append(element("h2", {}, title), chart.node);
    chart.draw({ curves, xLabel: "step", yLabel });
  }
  place.append(
    zoomHelp(),
    table(
      [
        { title: "Step", number: true },
        { title: "Learning rate", number: true },
        { title: "Loss", number: true },
        { title: "Largest" },
        { title: "Smallest" },
        { title: "Trace" },
      ],
      points.map((each) => [
        number(each.step),
        number(each.learning_rate),
        number(each.loss),
        withInterval(each.largest, 5),
        withInterval(each.smallest, 5),
        withInterval(each.trace, 5),
      ]),
    ),
  );
}
