// The rows of the list of jobs: they are updated as the jobs change, sorted, and selected.

import { element, scrollable, shortId, time } from "./elements.js";
import { cancelJob, deleteJob, ENDED, progressOf, Rate, STATES } from "./job_state.js";
import { againLink } from "./request.js";

function compared(a, b) {
  return a < b ? -1 : Number(a > b);
}

const newestFirst = (a, b) => compared(b.id, a.id); // ids begin with the time
const SORTS = {
  created: newestFirst,
  state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || newestFirst(a, b),
  kind: (a, b) => compared(a.kind, b.kind) || newestFirst(a, b),
};

// [title, name of the order of its button, whether a narrow screen leaves it out]
const COLUMNS = [
  ["", null, false],
  ["Job", null, false],
  ["State", "state", false],
  ["Progress", null, false],
  ["Kind", "kind", true],
  ["Summary", null, false],
  ["Tags", null, true],
  ["Submitted", "created", true],
  ["", null, false],
];

function tagLink(tag) {
  return element("a", { href: `#/jobs?${new URLSearchParams({ tag })}`, title: "Show the jobs with this tag" }, tag);
}

export class JobTable {
  // sort: name of the order; sorted: called with the name of another order that was chosen; selected: called with the
  // ids of the selected jobs.
  constructor({ sort, sorted, selected }) {
    Object.assign(this, { sort, sorted, selected });
    this.entries = new Map(); // id -> {job, rate, row, cells}
    this.selection = new Set();
    this.body = element("tbody");
    this.head = COLUMNS.map(([title, name, isWide]) => this.headCell(title, name, isWide));
    const table = element("table", {}, element("thead", {}, element("tr", {}, this.head)), this.body);
    this.node = scrollable("Jobs", table);
  }

  get size() {
    return this.entries.size;
  }

  headCell(title, name, isWide) {
    const button = element("button", { type: "button", click: () => this.sortBy(name) }, `${title} ↕`);
    const attributes = { scope: "col", class: isWide ? "wide" : undefined, "data-sort": name };
    return element("th", attributes, name ? button : title);
  }

  sortBy(name) {
    this.sort = name;
    this.sorted(name);
    this.arrange();
  }

  // Adds jobs to the end of the rows; `arrange` sorts them.
  add(jobs) {
    for (const job of jobs) this.entry(job);
    this.arrange();
  }

  update(job) {
    const isNew = !this.entries.has(job.id);
    const entry = this.entry(job);
    if (isNew) this.insert(entry);
  }

  remove(id) {
    this.entries.get(id)?.row.remove();
    this.entries.delete(id);
    if (this.selection.delete(id)) this.selected([...this.selection]);
  }

  clear() {
    this.entries.clear();
    this.body.replaceChildren();
  }

  entry(job) {
    const entry = this.entries.get(job.id) ?? { rate: new Rate() };
    entry.job = job;
    entry.rate.add(job);
    this.entries.set(job.id, entry);
    if (!entry.row) entry.row = this.row(entry);
    this.refresh(entry);
    return entry;
  }

  row(entry) {
    const { job } = entry;
    const tags = Object.entries(job.tags).map(([name, value]) => [tagLink(`${name}:${value}`), " "]);
    entry.cells = { state: element("td"), progress: element("td"), action: element("td", { class: "actions" }) };
    return element(
      "tr",
      { "data-job": job.id },
      element("td", {}, this.box(job.id)),
      element("td", {}, element("a", { href: `#/jobs/${job.id}` }, shortId(job.id))),
      entry.cells.state,
      entry.cells.progress,
      element("td", { class: "wide" }, job.kind),
      element("td", {}, job.summary),
      element("td", { class: "wide" }, tags),
      element("td", { class: "wide" }, time(job.created_at)),
      entry.cells.action,
    );
  }

  box(id) {
    const change = ({ target }) => {
      this.selection[target.checked ? "add" : "delete"](id);
      this.selected([...this.selection]);
    };
    const label = `Select job ${shortId(id)}`;
    return element("input", { type: "checkbox", "aria-label": label, checked: this.selection.has(id), change });
  }

  // Cells change in place, so that a row keeps the focus of the keyboard.
  refresh({ job, rate, cells }) {
    cells.state.textContent = job.state;
    cells.state.className = `state-${job.state}`;
    cells.progress.replaceChildren(progressOf(job, rate));
    const action = ENDED.includes(job.state) ? "Delete" : "Cancel";
    const button = cells.action.firstChild;
    if (button?.textContent === action) button.disabled = job.state === "cancelling";
    else cells.action.replaceChildren(this.actionButton(job.id, action), " ", againLink(job.id));
  }

  actionButton(id, action) {
    const click = async () => {
      if (action === "Cancel") await cancelJob(id);
      else if (await deleteJob(id)) this.remove(id);
    };
    return element("button", { type: "button", "aria-label": `${action} job ${shortId(id)}`, click }, action);
  }

  insert(entry) {
    const isAfter = (row) => SORTS[this.sort](entry.job, this.entries.get(row.dataset.job).job) < 0;
    this.body.insertBefore(entry.row, [...this.body.children].find(isAfter) ?? null);
  }

  arrange() {
    const entries = [...this.entries.values()].sort((a, b) => SORTS[this.sort](a.job, b.job));
    let next = this.body.firstChild; // rows that are in place are not moved, and keep the focus
    for (const { row } of entries) {
      if (row === next) next = next.nextSibling;
      else this.body.insertBefore(row, next);
    }
    for (const each of this.head) {
      const direction = this.sort === "created" ? "descending" : "ascending";
      if (each.dataset.sort === this.sort) each.setAttribute("aria-sort", direction);
      else each.removeAttribute("aria-sort");
    }
  }
}
