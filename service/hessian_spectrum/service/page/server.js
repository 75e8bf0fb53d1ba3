// The state of the server: its workers, its queue and its version.

import { json } from "./api.js";
import { bytes, element, list, number, problemElement, table } from "./elements.js";

const SECONDS = 5;

async function state(signal) {
  const [version, ready, queued, running] = await Promise.all([
    json("v1/version", { signal }),
    json("v1/health/ready", { signal }).catch((error) => { if (error.name === "AbortError") throw error; return { error, workers: [] }; }),
    json("v1/jobs?state=queued&page_size=200", { signal }), json("v1/jobs?state=running&page_size=200", { signal })]);
  const count = ({ jobs, next_page_token: next }) => `${jobs.length}${next ? " or more" : ""}`;
  return element("div", {},
    ready.error ? problemElement(ready.error) : element("p", { class: "state-succeeded" }, "The server accepts closed forms and jobs."),
    list([["Release", version.version], ["Queued jobs", count(queued)], ["Running jobs", count(running)], ["Code", version.code_version.slice(0, 16)]]),
    element("h2", {}, "Workers"),
    ready.workers.length ? table([{ title: "Name" }, { title: "Device" }, { title: "Memory for a job", number: true }, { title: "Resident", number: true }, { title: "Jobs at once", number: true }, { title: "Fault" }],
      ready.workers.map((each) => [each.name, each.device, bytes(each.memory_bytes), bytes(each.resident_bytes), number(each.concurrency), each.fault ?? "none"]))
      : element("p", {}, "No worker is online, or this page may not see them."));
}

export async function serverView(place, { signal }) {
  const shown = element("div");
  place.append(element("h1", {}, "Server"), shown);
  while (!signal.aborted) {
    shown.replaceChildren(await state(signal));
    await new Promise((resolve) => {
      setTimeout(resolve, SECONDS * 1000);
      signal.addEventListener("abort", resolve, { once: true });
    });
  }
}
