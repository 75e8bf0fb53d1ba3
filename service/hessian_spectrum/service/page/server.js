// The state of the server, read every few seconds: its queue, workers, products per second, disk and version.

import { json, send } from "./api.js";
import { Chart } from "./chart.js";
import { bytes, duration, element, list, number, plainTable, problemElement, scrollable } from "./elements.js";

const POLL_SECONDS = 5;
const MOST_SAMPLES = 720; // of an hour
const STATES = ["queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"];
const WORKER_COLUMNS = [
  { title: "Name" },
  { title: "Device" },
  { title: "Threads", number: true },
  { title: "Memory for a job", number: true },
  { title: "Resident", number: true },
  { title: "Jobs at once", number: true },
  { title: "Fault" },
];

// Parses the text format of Prometheus: name -> value, or name{label="value"} -> value.
export function metricsOf(text) {
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(" ");
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

async function orProblem(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { error };
  }
}

async function state(signal) {
  const [version, ready, metrics] = await Promise.all([
    orProblem(json("v1/version", { signal })),
    orProblem(json("v1/health/ready", { signal })),
    orProblem(send("metrics", { signal }).then((response) => response.text())),
  ]);
  return { version, ready, metrics: metrics.error ? null : metricsOf(metrics) };
}

function queueFacts(metrics) {
  const jobs = (name) => metrics.get(`spectrum_jobs{state="${name}"}`);
  if (jobs("queued") === undefined) return [["Jobs", "unknown: the queue does not answer"]];
  const oldest = metrics.get("spectrum_oldest_queued_seconds");
  return [
    [
      "Jobs",
      STATES.filter((name) => jobs(name) || name === "queued" || name === "running")
        .map((name) => `${number(jobs(name))} ${name}`)
        .join(", "),
    ],
    ["Oldest queued job", jobs("queued") ? `waits for ${duration(oldest)}` : "none"],
    ["Products", `${number(metrics.get("spectrum_products_total"))} since the start of the queue`],
  ];
}

function facts({ version, metrics }) {
  return list([
    ["Release", version.version],
    ["Code", version.code_version?.slice(0, 16)],
    ...(metrics
      ? [
          ...queueFacts(metrics),
          [
            "Disk",
            `${bytes(metrics.get("spectrum_results_bytes"))} of results and uploads, ` +
              `${bytes(metrics.get("spectrum_results_free_bytes"))} free`,
          ],
        ]
      : []),
  ]);
}

// Matrix-vector products per second between two readings of a counter.
class ProductRate {
  constructor() {
    this.chart = new Chart({ label: "Matrix-vector products per second since this page was opened", height: 220 });
    this.text = element("p", {}, "Known after the second reading.");
    this.node = element(
      "section",
      {},
      element("h2", {}, "Matrix-vector products per second"),
      this.text,
      this.chart.node,
    );
    this.chart.node.hidden = true;
    this.samples = [];
    this.started = performance.now();
  }

  add(count) {
    const at = (performance.now() - this.started) / 1000;
    const { last } = this;
    this.last = { count, at };
    if (!last || count < last.count) return;
    this.samples.push({ at, rate: (count - last.count) / (at - last.at) });
    if (this.samples.length > MOST_SAMPLES) this.samples.shift();
    const rate = number(this.samples.at(-1).rate, 3);
    this.text.textContent = `${rate} over the last ${number(at - last.at, 2)} seconds, of all workers together.`;
    this.chart.node.hidden = this.samples.length < 2;
    if (!this.chart.node.hidden) {
      this.chart.draw({
        curves: [
          {
            label: "products per second",
            x: this.samples.map((each) => each.at),
            y: this.samples.map((each) => each.rate),
            style: "line",
          },
        ],
        xLabel: "seconds since this page was opened",
        yLabel: "products per second",
      });
    }
  }
}

function workersTable(workers) {
  if (!workers?.length) return element("p", {}, "No worker is online, or this page may not see them.");
  return plainTable(
    WORKER_COLUMNS,
    workers.map((each) => [
      each.name,
      each.device,
      number(each.num_threads),
      bytes(each.memory_bytes),
      bytes(each.resident_bytes),
      number(each.concurrency),
      each.fault ?? "none",
    ]),
  );
}

export async function serverView(place, { signal }) {
  const [verdict, shown] = [element("div", { "aria-live": "polite" }), element("div")];
  const workers = scrollable("Workers");
  const rate = new ProductRate();
  place.append(element("h1", {}, "Server"), verdict, shown, element("h2", {}, "Workers"), workers, rate.node);
  while (!signal.aborted) {
    const now = await state(signal);
    const problem = now.ready.error ?? now.version.error;
    const text = problem ? String(problem.problem?.detail ?? problem) : "The server accepts closed forms and jobs.";
    if (text !== verdict.dataset.text) {
      // a screen reader reads only changes
      verdict.replaceChildren(problem ? problemElement(problem) : element("p", { class: "state-succeeded" }, text));
      verdict.dataset.text = text;
    }
    shown.replaceChildren(facts(now));
    workers.replaceChildren(workersTable(now.ready.workers));
    if (now.metrics?.has("spectrum_products_total")) rate.add(now.metrics.get("spectrum_products_total"));
    await new Promise((resolve) => {
      setTimeout(resolve, POLL_SECONDS * 1000);
      signal.addEventListener("abort", resolve, { once: true });
    });
  }
}
