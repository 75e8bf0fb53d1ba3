// One job with its result, or the densities of several jobs in one plot.

import { follow, json, persist } from "./api.js";
import { cancelJob, deleteJob, ENDED, progressOf, Rate } from "./job_state.js";
import { announceOutage, announceProblem, element, list, problemElement, shortId, time } from "./elements.js";
import { lanczosView } from "./lanczos.js";
import { overlayView } from "./overlay.js";
import { againLink, requestElement } from "./request.js";
import { downloads, resultElement } from "./result.js";

function facts(job) {
  return list([
    ["Kind", job.kind],
    ["Summary", job.summary],
    ["State", element("span", { class: `state-${job.state}` }, job.state)],
    ["Submitted", time(job.created_at)],
    ["Started", time(job.started_at)],
    ["Ended", time(job.finished_at)],
    ["Attempts", job.attempt > 1 ? String(job.attempt) : ""],
    ["Key", job.owner ?? ""],
    [
      "Tags",
      Object.entries(job.tags)
        .map(([name, value]) => `${name}: ${value}`)
        .join(", "),
    ],
  ]);
}

export async function jobView(place, context) {
  const ids = context.parameters[0].split(",");
  await (ids.length === 1 ? single(place, ids[0], context) : overlayView(place, ids, context));
}

async function single(place, id, context) {
  const { signal } = context;
  const status = element("div");
  const result = element("div");
  const rate = new Rate();
  place.append(element("h1", {}, `Job ${shortId(id)}`), status, result);

  function showJob(job) {
    rate.add(job);
    const cancel = element(
      "button",
      { type: "button", disabled: job.state === "cancelling", click: () => cancelJob(id) },
      "Cancel",
    );
    const remove = element(
      "button",
      {
        type: "button",
        click: async () => {
          if (await deleteJob(id)) location.hash = "#/jobs";
        },
      },
      "Delete",
    );
    status.replaceChildren(
      facts(job),
      element(
        "div",
        { class: "row" },
        progressOf(job, rate),
        ENDED.includes(job.state) ? remove : cancel,
        againLink(id),
      ),
    );
    if (job.error) status.append(problemElement({ problem: job.error }));
  }

  let interim = null; // the view of the interim results, once there is one
  let known = null; // digest of the last one

  async function showInterim(job) {
    if (!job.interim || job.interim === known) return;
    known = job.interim;
    try {
      const document = await json(`v1/jobs/${id}/result?interim=true`, { signal });
      if (!document.interim) return;
      if (interim) interim.show(document);
      else {
        interim = lanczosView(null, document, context);
        result.replaceChildren(
          element("h2", {}, "Interim result"),
          element(
            "p",
            { class: "muted" },
            "From the probes and steps so far. The bands already contain the exact curves, and become narrower until " +
              "the job ends.",
          ),
          interim.node,
        );
      }
    } catch (error) {
      if (error.name !== "AbortError" && ![404, 409, 410].includes(error.status)) announceProblem(error);
    }
  }

  async function showResult(job) {
    try {
      const document = await persist(() => json(`v1/jobs/${id}/result`, { signal }), signal, announceOutage);
      result.replaceChildren(downloads(id, document), await resultElement(id, document, context));
    } catch (error) {
      if (error.name !== "AbortError" && !job.error) result.replaceChildren(problemElement(error));
    }
  }

  let job = await persist(() => json(`v1/jobs/${id}`, { signal }), signal, announceOutage);
  showJob(job);
  place.append(requestElement(id, signal));
  if (!ENDED.includes(job.state)) {
    for await (job of follow(`v1/jobs/${id}/events`, signal)) {
      showJob(job);
      if (ENDED.includes(job.state)) break;
      showInterim(job);
    }
  }
  if (!signal.aborted) await showResult(job);
}
