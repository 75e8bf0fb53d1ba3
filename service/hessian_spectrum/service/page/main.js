// The views of the page by their address, and the dialog that asks for the API key.

import { setKey } from "./api.js";
import { element, problemElement } from "./elements.js";
import { closedFormView } from "./closed_form.js";
import { figuresView } from "./figures.js";
import { jobsView } from "./jobs.js";
import { jobView } from "./job.js";
import { newJobView } from "./new_job.js";
import { randomMatrixView } from "./random_matrix.js";
import { seriesView } from "./series.js";
import { serverView } from "./server.js";

const VIEWS = [
  [/^\/jobs\/([0-9a-f]{32}(?:,[0-9a-f]{32})*)$/, jobView],
  [/^\/jobs$/, jobsView],
  [/^\/new$/, newJobView],
  [/^\/closed-form$/, closedFormView],
  [/^\/random-matrix$/, randomMatrixView],
  [/^\/series(?:\/(.+))?$/, seriesView],
  [/^\/figures$/, figuresView],
  [/^\/server$/, serverView],
];

const KEEP_MILLISECONDS = 200;

let controller = new AbortController();

// The address after `#` is a path and a query; views keep their settings in the query, so that a link shows the same.
function settings() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

let keeping = null; // timer

// Browsers limit how often the address changes, so that it follows a slider that moves with a delay.
function keepSettings(values) {
  clearTimeout(keeping);
  keeping = setTimeout(() => writeSettings(values), KEEP_MILLISECONDS);
}

function writeSettings(values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== undefined));
  const text = query.toString();
  history.replaceState(null, "", `${location.hash.split("?")[0]}${text ? `?${text}` : ""}`);
}

async function show() {
  clearTimeout(keeping);
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  const path = location.hash.slice(1).split("?")[0] || "/jobs";
  const [view, match] = VIEWS.map(([pattern, each]) => [each, pattern.exec(path)]).find(([, found]) => found) ?? [null];
  for (const link of document.querySelectorAll("nav a")) {
    if (path.startsWith(link.getAttribute("href").slice(1))) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const content = document.getElementById("content");
  const place = element("div");
  content.replaceChildren(place);
  if (!view) {
    place.append(element("h1", {}, "There is no such view"));
    return;
  }
  try {
    await view(place, {
      signal,
      get settings() {
        return settings();
      },
      keepSettings: (values) => signal.aborted || keepSettings(values),
      parameters: match.slice(1).map((each) => each && decodeURIComponent(each)),
    });
  } catch (error) {
    if (error.name !== "AbortError") place.append(problemElement(error));
  }
}

function askForKey(isGiven) {
  const dialog = document.getElementById("key-dialog");
  if (dialog.open) return;
  document.getElementById("key-message").textContent = isGiven
    ? "The server does not know this key. Enter another one."
    : "This server requires an API key. It is kept in this tab until the tab is closed.";
  document.getElementById("key-input").value = "";
  dialog.showModal();
}

document.addEventListener("key-required", (event) => askForKey(event.detail.isGiven));
document.getElementById("key-form").addEventListener("submit", () => {
  setKey(document.getElementById("key-input").value);
  show();
});
addEventListener("hashchange", show);
show();
