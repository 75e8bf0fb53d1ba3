// The list of jobs, which is updated as the jobs change.

import { follow, json, persist } from "./api.js";
import {
  announce,
  announceOutage,
  announceProblem,
  choice,
  duration,
  element,
  number,
  problemElement,
  scrollable,
  shortId,
  time,
} from "./elements.js";
import { againLink } from "./request.js";

const STATES = ["", "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"];
export const ENDED = ["succeeded", "failed", "cancelled", "expired"];

function compared(a, b) {
  return a < b ? -1 : Number(a > b);
}

const newestFirst = (a, b) => compared(b.id, a.id); // ids begin with the time
const SORTS = {
  created: newestFirst,
  state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || newestFirst(a, b),
  kind: (a, b) => compared(a.kind, b.kind) || newestFirst(a, b),
};

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

function tagLink(tag) {
  return element("a", { href: `#/jobs?${new URLSearchParams({ tag })}`, title: "Show the jobs with this tag" }, tag);
}

export async function jobsView(place, { signal, settings, keepSettings }) {
  const chosen = {
    state: settings.get("state") ?? "",
    tag: settings.get("tag") ?? "",
    sort: settings.get("sort") ?? "created",
  };
  const known = new Map(); // id -> {job, rate, row}
  const selected = new Set();
  const body = element("tbody");
  const more = element("button", { type: "button", click: () => refill(nextPage) }, "Older jobs");
  const overlay = element(
    "button",
    {
      type: "button",
      disabled: true,
      click: () => {
        location.hash = `#/jobs/${[...selected].join(",")}`;
      },
    },
    "Overlay the selected jobs",
  );
  let nextPage; // undefined until the first page has arrived
  let filling = 0; // number of the present filter: responses for an earlier one are ignored

  function choose(changes) {
    Object.assign(chosen, changes);
    keepSettings({ ...chosen, sort: chosen.sort === "created" ? "" : chosen.sort });
  }

  function matches(job) {
    const [name, ...value] = chosen.tag.split(":");
    return (
      (!chosen.state || job.state === chosen.state) && (!chosen.tag.includes(":") || job.tags[name] === value.join(":"))
    );
  }

  // Cells change in place, so that a row keeps the focus of the keyboard.
  function row(entry) {
    const { job } = entry;
    const box = element("input", {
      type: "checkbox",
      "aria-label": `Select job ${shortId(job.id)}`,
      checked: selected.has(job.id),
      change: () => {
        selected[box.checked ? "add" : "delete"](job.id);
        overlay.disabled = selected.size < 2;
      },
    });
    const tags = Object.entries(job.tags).map(([name, value]) => [tagLink(`${name}:${value}`), " "]);
    entry.cells = { state: element("td"), progress: element("td"), action: element("td", { class: "actions" }) };
    const made = element(
      "tr",
      { "data-job": job.id },
      element("td", {}, box),
      element("td", {}, element("a", { href: `#/jobs/${job.id}` }, shortId(job.id))),
      entry.cells.state,
      entry.cells.progress,
      element("td", { class: "wide" }, job.kind),
      element("td", {}, job.summary),
      element("td", { class: "wide" }, tags),
      element("td", { class: "wide" }, time(job.created_at)),
      entry.cells.action,
    );
    refresh(entry);
    return made;
  }

  function refresh({ job, rate, cells }) {
    cells.state.textContent = job.state;
    cells.state.className = `state-${job.state}`;
    cells.progress.replaceChildren(progressOf(job, rate));
    const action = ENDED.includes(job.state) ? "Delete" : "Cancel";
    const button = cells.action.firstChild;
    if (button?.textContent === action) button.disabled = job.state === "cancelling";
    else
      cells.action.replaceChildren(
        element(
          "button",
          {
            type: "button",
            "aria-label": `${action} job ${shortId(job.id)}`,
            click: () => (action === "Delete" ? erase(job.id) : cancelJob(job.id)),
          },
          action,
        ),
        " ",
        againLink(job.id),
      );
  }

  async function erase(id) {
    if (await deleteJob(id)) remove(id);
  }

  function remove(id) {
    known.get(id)?.row.remove();
    known.delete(id);
    selected.delete(id);
  }

  function update(job, { isSorted = true } = {}) {
    if (!matches(job)) {
      remove(job.id);
      return;
    }
    const entry = known.get(job.id) ?? { rate: new Rate() };
    const isNew = !entry.row;
    entry.job = job;
    entry.rate.add(job);
    known.set(job.id, entry);
    if (isNew) {
      entry.row = row(entry);
      if (isSorted) insert(entry);
    } else refresh(entry);
  }

  function insert(entry) {
    const compare = SORTS[chosen.sort];
    const before = [...body.children].find((each) => compare(entry.job, known.get(each.dataset.job).job) < 0);
    body.insertBefore(entry.row, before ?? null);
  }

  function arrange() {
    const entries = [...known.values()].sort((a, b) => SORTS[chosen.sort](a.job, b.job));
    let next = body.firstChild; // rows that are in place are not moved, and keep the focus
    for (const { row: own } of entries) {
      if (own === next) next = next.nextSibling;
      else body.insertBefore(own, next);
    }
    for (const each of head) {
      if (each.dataset.sort === chosen.sort)
        each.setAttribute("aria-sort", chosen.sort === "created" ? "descending" : "ascending");
      else each.removeAttribute("aria-sort");
    }
  }

  async function load(page) {
    const own = filling;
    const query = new URLSearchParams({ page_size: "200" });
    if (chosen.state) query.set("state", chosen.state);
    if (chosen.tag.includes(":")) query.set("tag", chosen.tag);
    if (page) query.set("page_token", page);
    const { jobs, next_page_token: next } = await json(`v1/jobs?${query}`, { signal });
    if (own !== filling) return;
    jobs.forEach((job) => update(job, { isSorted: false }));
    arrange();
    if (page || nextPage === undefined) nextPage = next; // the first page is loaded again with each connection
    more.hidden = !nextPage;
    empty.hidden = known.size > 0;
  }

  // Loads a page of jobs, and tries again during outages of the server.
  async function refill(page = null) {
    try {
      await persist(() => load(page), signal, announceOutage);
    } catch (error) {
      if (error.name !== "AbortError") faults.replaceChildren(problemElement(error));
    }
  }

  function reload() {
    filling += 1;
    nextPage = undefined;
    known.clear();
    body.replaceChildren();
    return refill();
  }

  const faults = element("div");
  const empty = element(
    "p",
    { hidden: true },
    "There are no such jobs. ",
    element("a", { href: "#/new" }, "Submit one."),
  );
  const heads = [
    ["", null],
    ["Job", null],
    ["State", "state"],
    ["Progress", null],
    ["Kind", "kind"],
    ["Summary", null],
    ["Tags", null],
    ["Submitted", "created"],
    ["", null],
  ];
  const head = heads.map(([title, sort]) =>
    element(
      "th",
      { scope: "col", class: ["Kind", "Tags", "Submitted"].includes(title) ? "wide" : undefined, "data-sort": sort },
      sort
        ? element(
            "button",
            {
              type: "button",
              click: () => {
                choose({ sort });
                arrange();
              },
            },
            `${title} ↕`,
          )
        : title,
    ),
  );
  place.append(
    element("h1", {}, "Jobs"),
    element(
      "div",
      { class: "row" },
      choice({
        name: "state",
        label: "State",
        value: chosen.state,
        options: STATES.map((each) => [each, each || "all"]),
        change: (state) => {
          choose({ state });
          reload();
        },
      }),
      element(
        "div",
        { class: "field" },
        element("label", { for: "tag" }, "Tag"),
        element("input", {
          id: "tag",
          type: "search",
          placeholder: "name:value",
          value: chosen.tag,
          change: (event) => {
            choose({ tag: event.target.value.trim() });
            reload();
          },
        }),
      ),
      overlay,
    ),
    scrollable("Jobs", element("table", {}, element("thead", {}, element("tr", {}, head)), body)),
    empty,
    faults,
    more,
  );
  more.hidden = true;
  refill();
  for await (const event of follow("v1/events", signal, { connected: () => refill() })) {
    update(event);
    empty.hidden = known.size > 0;
  }
}
