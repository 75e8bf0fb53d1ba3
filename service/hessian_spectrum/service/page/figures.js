// The figures of the sources: buttons that compute each as a job, and links to the newest results.

import { json } from "./api.js";
import { announce, duration, element, problemElement, table } from "./elements.js";

export async function figuresView(place, { signal }) {
  const { figures } = await json("v1/figures", { signal });
  const { jobs } = await json("v1/jobs?page_size=200&state=succeeded", { signal }).catch(() => ({ jobs: [] }));
  const faults = element("div");

  async function compute(figure, scale) {
    try {
      const job = await json("v1/jobs", { method: "POST", body: { kind: "figure", figure, scale } });
      announce(`${figure} is being computed.`);
      location.hash = `#/jobs/${job.id}`;
    } catch (error) {
      faults.replaceChildren(problemElement(error));
    }
  }

  const rows = figures.map(({ figure, title, source, estimates }) => {
    const done = jobs.find((job) => job.kind === "figure" && job.summary.split(", ")[0] === figure);
    return [
      element("strong", {}, figure),
      title,
      source,
      element(
        "div",
        { class: "row" },
        ["quick", "paper"].map((scale) =>
          element(
            "button",
            {
              type: "button",
              click: () => compute(figure, scale),
              "aria-label": `Compute ${figure} at the scale ${scale}`,
            },
            `${scale}: ${duration(estimates[scale].seconds ?? NaN) || "unknown"}`,
          ),
        ),
      ),
      done ? element("a", { href: `#/jobs/${done.id}` }, "result") : "",
    ];
  });
  place.append(
    element("h1", {}, "Figures of the sources"),
    element(
      "p",
      {},
      "Each figure is one job. Its result has the numbers, and a verdict on every claim of the text. Times are " +
        "predicted for two cores.",
    ),
    faults,
    table(
      [
        { title: "Name" },
        { title: "Title" },
        { title: "Source", wide: true },
        { title: "Compute" },
        { title: "Result" },
      ],
      rows,
    ),
  );
}
