// The states of jobs, their progress, and the actions on them.

import { json } from "./api.js";
import { announce, announceProblem, duration, element, number } from "./elements.js";

export const STATES = ["queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"];
export const ENDED = ["succeeded", "failed", "cancelled", "expired"];

// Units per second of a running job, from the changes that this page has seen.
export class Rate {
  constructor() {
    this.first = null;
  }

  add(job) {
    const { phase, done } = job.progress;
    if (job.state !== "running" || this.first?.phase !== phase || done < this.first.done)
      this.first = { phase, done, at: performance.now() };
    const seconds = (performance.now() - this.first.at) / 1000;
    this.value = seconds > 0.5 && done > this.first.done ? (done - this.first.done) / seconds : null;
  }
}

export function progressOf(job, rate) {
  const { phase, done, total, unit, estimated_seconds: estimated } = job.progress;
  if (ENDED.includes(job.state)) return job.cached ? "reused an earlier result" : "";
  const passed = job.started_at ? (Date.now() - Date.parse(job.started_at)) / 1000 : 0;
  const left = estimated ? Math.max(0, estimated - passed) : rate?.value ? (total - done) / rate.value : null;
  return element(
    "span",
    {},
    total ? element("progress", { value: done, max: total, "aria-label": `Progress of ${phase}` }) : null,
    ` ${phase}`,
    total ? `, ${number(done)} of ${number(total)} ${unit}` : "",
    rate?.value ? `, ${number(rate.value, 3)} per second` : "",
    left ? `, about ${duration(left)} left` : "",
  );
}

async function act(action, done) {
  try {
    await action();
    announce(done);
    return true;
  } catch (error) {
    announceProblem(error);
    return false;
  }
}

export function cancelJob(id) {
  return act(() => json(`v1/jobs/${id}/cancel`, { method: "POST" }), "The job will be cancelled.");
}

// Returns whether the job was deleted.
export function deleteJob(id) {
  return act(() => json(`v1/jobs/${id}`, { method: "DELETE" }), "The job was deleted.");
}
