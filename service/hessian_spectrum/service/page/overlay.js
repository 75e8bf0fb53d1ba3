// Spectra of several jobs in one plot.

import { json } from "./api.js";
import { Chart, zoomHelp } from "./chart.js";
import { cumulative } from "./eigenvalues.js";
import { choice, copyLinkButton, element, problemElement, scaleChoice, shortId, table } from "./elements.js";
import { axesOf, CURVE_TITLES } from "./lanczos.js";
import { largestOf, leastShown, scaleOf } from "./quantities.js";

// The curve of a result; a result that lists every eigenvalue has only a cumulative curve.
function curveOf(result, name, label) {
  if (result[name]) {
    const { grid, values, band } = result[name];
    return { label, x: grid, y: values, lower: band.lower, upper: band.upper };
  }
  if (name === "cumulative" && result.eigenvalues) {
    return {
      ...cumulative(
        [...result.eigenvalues].sort((a, b) => a - b),
        result.repeated,
        result.num_parameters,
      ),
      label,
    };
  }
  return null;
}

function jobsTable(jobs) {
  return table(
    [{ title: "Job" }, { title: "Summary" }, { title: "Tags" }, { title: "Largest eigenvalue" }],
    jobs.map(({ job, result }) => [
      element("a", { href: `#/jobs/${job.id}` }, shortId(job.id)),
      job.summary,
      Object.entries(job.tags)
        .map(([name, value]) => `${name}:${value}`)
        .join(" "),
      largestOf(result),
    ]),
  );
}

export async function overlayView(place, ids, { signal, settings, keepSettings }) {
  const chosen = {
    curve: settings.get("curve") in CURVE_TITLES ? settings.get("curve") : "density",
    y: settings.get("y") ?? "",
  };
  const chart = new Chart({ label: `Spectra of ${ids.length} jobs`, height: 440 });
  const [jobs, missing] = [[], element("p", { class: "muted", role: "status" })];
  place.append(element("h1", {}, `${ids.length} jobs`));
  for (const id of ids) {
    try {
      const [job, result] = await Promise.all([
        json(`v1/jobs/${id}`, { signal }),
        json(`v1/jobs/${id}/result`, { signal }),
      ]);
      jobs.push({ job, result });
    } catch (error) {
      if (error.name === "AbortError") return;
      place.append(element("p", {}, `${shortId(id)}: `), problemElement(error));
    }
  }

  function draw() {
    const curves = jobs.map(({ job, result }) => curveOf(result, chosen.curve, shortId(job.id)));
    const without = jobs.filter((_, index) => !curves[index]).map(({ job }) => shortId(job.id));
    missing.textContent = without.length ? `Without such a curve: ${without.join(", ")}.` : "";
    chart.draw({
      curves: curves.filter(Boolean),
      ...axesOf(chosen.curve),
      yScale: scaleOf(chosen),
      yLeast: Math.min(
        ...jobs.filter(({ result }) => result[chosen.curve]).map(({ result }) => leastShown(result, chosen.curve)),
      ),
    });
  }

  function change(changes) {
    Object.assign(chosen, changes);
    keepSettings({ curve: chosen.curve === "density" ? "" : chosen.curve, y: chosen.y });
    draw();
  }

  place.append(
    element(
      "div",
      { class: "row" },
      choice({
        name: "curve",
        label: "Curve",
        value: chosen.curve,
        options: Object.entries(CURVE_TITLES),
        change: (curve) => change({ curve }),
      }),
      scaleChoice(chosen.y, change),
      copyLinkButton(),
    ),
    missing,
    chart.node,
    zoomHelp(),
    jobsTable(jobs),
  );
  draw();
}
