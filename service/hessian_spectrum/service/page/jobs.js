// The list of jobs, which is updated as the jobs change.

import { follow, json, persist } from "./api.js";
import { announceOutage, choice, element, problemElement } from "./elements.js";
import { STATES } from "./job_state.js";
import { JobTable } from "./job_table.js";

const PAGE_SIZE = "200";

// Choices of the state and of the tag of the jobs that are listed.
function filterElements({ state, tag }, change) {
  const input = element("input", { id: "tag", type: "search", placeholder: "name:value", value: tag });
  input.addEventListener("change", () => change({ tag: input.value.trim() }));
  return [
    choice({
      name: "state",
      label: "State",
      value: state,
      options: [["", "all"], ...STATES.map((each) => [each, each])],
      change: (each) => change({ state: each }),
    }),
    element("div", { class: "field" }, element("label", { for: "tag" }, "Tag"), input),
  ];
}

export async function jobsView(place, { signal, settings, keepSettings }) {
  const chosen = {
    state: settings.get("state") ?? "",
    tag: settings.get("tag") ?? "",
    sort: settings.get("sort") ?? "created",
  };
  let nextPage; // undefined until the first page has arrived
  let filling = 0; // number of the present filter: responses for an earlier one are ignored
  let selected = [];

  const table = new JobTable({
    sort: chosen.sort,
    sorted: (sort) => choose({ sort }),
    selected: (ids) => {
      selected = ids;
      overlay.disabled = ids.length < 2;
    },
  });
  const openOverlay = () => {
    location.hash = `#/jobs/${selected.join(",")}`;
  };
  const overlay = element(
    "button",
    { type: "button", disabled: true, click: openOverlay },
    "Overlay the selected jobs",
  );
  const more = element("button", { type: "button", hidden: true, click: () => refill(nextPage) }, "Older jobs");
  const submit = element("a", { href: "#/new" }, "Submit one.");
  const empty = element("p", { hidden: true }, "There are no such jobs. ", submit);
  const faults = element("div");

  function choose(changes) {
    Object.assign(chosen, changes);
    keepSettings({ ...chosen, sort: chosen.sort === "created" ? "" : chosen.sort });
  }

  function matches(job) {
    const [name, ...value] = chosen.tag.split(":");
    const hasTag = !chosen.tag.includes(":") || job.tags[name] === value.join(":");
    return hasTag && (!chosen.state || job.state === chosen.state);
  }

  async function load(page) {
    const own = filling;
    const query = new URLSearchParams({ page_size: PAGE_SIZE });
    if (chosen.state) query.set("state", chosen.state);
    if (chosen.tag.includes(":")) query.set("tag", chosen.tag);
    if (page) query.set("page_token", page);
    const { jobs, next_page_token: next } = await json(`v1/jobs?${query}`, { signal });
    if (own !== filling) return;
    table.add(jobs.filter(matches));
    if (page || nextPage === undefined) nextPage = next; // the first page is loaded again with each connection
    more.hidden = !nextPage;
    empty.hidden = table.size > 0;
  }

  // Loads a page of jobs, and tries again during outages of the server.
  async function refill(page = null) {
    try {
      await persist(() => load(page), signal, announceOutage);
    } catch (error) {
      if (error.name !== "AbortError") faults.replaceChildren(problemElement(error));
    }
  }

  function filter(changes) {
    choose(changes);
    filling += 1;
    nextPage = undefined;
    table.clear();
    return refill();
  }

  place.append(
    element("h1", {}, "Jobs"),
    element("div", { class: "row" }, filterElements(chosen, filter), overlay),
    table.node,
    empty,
    faults,
    more,
  );
  refill();
  for await (const job of follow("v1/events", signal, { connected: () => refill() })) {
    if (matches(job)) table.update(job);
    else table.remove(job.id);
    empty.hidden = table.size > 0;
  }
}
