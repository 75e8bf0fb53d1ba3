// The law of the Hessian: Wishart plus Wigner, with sliders for energy and ratio.

import { Chart, zoomHelp } from "./chart.js";
import { choice, copyButton, copyLinkButton, element, list, number, problemElement, slider } from "./elements.js";
import { Live } from "./live.js";

export async function randomMatrixView(place, { signal, settings, keepSettings }) {
  const values = {
    activation: settings.get("activation") ?? "linear",
    energy: Number(settings.get("energy") ?? 0.3),
    ratio: Number(settings.get("ratio") ?? 0.5),
    sample: settings.get("sample") ?? "",
  };
  const chart = new Chart({ label: "Density of the law", height: 360 });
  const curve = new Chart({ label: "Index against energy", height: 260 });
  const facts = element("div");
  let request = null;
  let drawn = null; // the law that is shown
  let drawnIndex = null;

  function show(law) {
    drawn = law;
    draw(null);
    facts.replaceChildren(
      list([
        ["Index: mass below 0", number(law.index)],
        ["Atom at 0", number(law.atom_at_zero)],
        ["Critical energy", number(law.critical_energy)],
        ["alpha_0", number(law.alpha_0)],
        ["Support", law.support.map((each) => `[${each.map((end) => number(end, 5)).join(", ")}]`).join(", ")],
        [
          "Mean, second moment",
          law.moments
            .slice(0, 2)
            .map((each) => number(each, 5))
            .join(", "),
        ],
        ["Source", law.source],
      ]),
    );
  }

  // The law, with the sampled matrix once there is one: the law does not wait for it.
  function draw(sample) {
    const curves = [{ label: "density", x: drawn.grid, y: drawn.density }];
    if (sample) {
      const { edges: ends, density } = sample;
      curves.push({
        label: "sampled matrix",
        x: density.map((_, index) => (ends[index] + ends[index + 1]) / 2),
        y: density,
        style: "markers",
      });
    }
    const edges = drawn.support.flat().map((value) => ({ value, label: number(value, 4) }));
    const atom = drawn.atom_at_zero > 0 ? [{ value: 0, label: `atom ${number(drawn.atom_at_zero, 3)}` }] : [];
    chart.draw({ curves, xLabel: "eigenvalue", yLabel: "density", vertical: [...atom, ...edges] });
  }

  function showSample(law) {
    const { energy, ratio, activation } = law.parameters;
    if (
      drawn &&
      values.sample &&
      energy === values.energy &&
      ratio === values.ratio &&
      activation === values.activation
    )
      draw(law.sample);
  }

  function showIndex(found) {
    drawnIndex = found;
    const { curves } = found;
    curve.draw({
      curves: curves.map((each) => ({ label: `ratio ${number(each.ratio, 3)}`, x: each.energies, y: each.index })),
      xLabel: "energy",
      yLabel: "index",
      vertical: [
        ...curves
          .map((each) => ({ value: each.critical_energy, label: "critical energy" }))
          .filter((each) => each.value !== null),
        { value: values.energy, label: "energy" },
      ],
    });
  }

  const fail = (error) => facts.replaceChildren(problemElement(error));
  const law = new Live("v1/random-matrix", { signal, show, fail });
  const sample = new Live("v1/random-matrix", { signal, show: showSample, fail });
  const index = new Live("v1/random-matrix", { signal, show: showIndex, fail });

  function changed(changes = {}) {
    Object.assign(values, changes);
    keepSettings(values);
    request = {
      law: "hessian",
      activation: values.activation,
      energy: values.energy,
      ratio: values.ratio,
      num_points: 400,
    };
    law.ask(request);
    if (values.sample) {
      request = { ...request, sample: { size: 400, seed: Number(values.sample) } };
      sample.ask(request);
    }
    if (drawnIndex && ("energy" in changes || "sample" in changes)) showIndex(drawnIndex);
    else index.ask({ law: "index-curve", activation: values.activation, ratios: [values.ratio], num_points: 129 });
  }

  const controls = element(
    "div",
    {},
    choice({
      name: "activation",
      label: "Activation",
      value: values.activation,
      options: [
        ["linear", "linear"],
        ["relu", "ReLU"],
      ],
      change: (activation) => changed({ activation }),
    }),
    slider({
      name: "energy",
      label: "Energy",
      min: 0.001,
      max: 1,
      step: 0.001,
      value: values.energy,
      change: (energy) => changed({ energy }),
    }),
    slider({
      name: "ratio",
      label: "Ratio of parameters to data",
      min: 0.05,
      max: 2,
      step: 0.01,
      value: values.ratio,
      change: (ratio) => changed({ ratio }),
    }),
    element(
      "div",
      { class: "row" },
      element(
        "button",
        { type: "button", click: () => changed({ sample: String(Number(values.sample || 0) + 1) }) },
        "Sample a matrix",
      ),
      element("button", { type: "button", click: () => changed({ sample: "" }) }, "The law alone"),
      copyButton("Copy the request", () => JSON.stringify(request)),
      copyLinkButton(),
    ),
  );
  place.append(
    element("h1", {}, "Random matrices"),
    element(
      "div",
      { class: "with-sidebar" },
      controls,
      element("div", {}, chart.node, element("h2", {}, "Index against energy"), curve.node, zoomHelp()),
      facts,
    ),
  );
  changed();
}
