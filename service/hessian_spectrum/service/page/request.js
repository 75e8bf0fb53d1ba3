// The request of a job: to look at, to copy as curl, Python or JSON, and to run again with changes.

import { hasKey, json } from "./api.js";
import { copyButton, copyLinkButton, element, problemElement } from "./elements.js";

const INDENT = "    ";

// A value of JSON as Python writes it.
export function python(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((each) => python(each, indent)).join(", ")}]`;
  const deeper = indent + INDENT;
  const lines = Object.entries(value).map(
    ([name, each]) => `${deeper}${JSON.stringify(name)}: ${python(each, deeper)},\n`,
  );
  return lines.length ? `{\n${lines.join("")}${indent}}` : "{}";
}

function server() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

function header() {
  return hasKey() ? ' -H "Authorization: Bearer $SPECTRUM_API_KEY"' : "";
}

// A program with a statement that uses `client`; the key comes from the environment, never from the page.
function program(statement) {
  const key = hasKey() ? ', api_key=os.environ["SPECTRUM_API_KEY"]' : "";
  return (
    `${hasKey() ? "import os\n\n" : ""}from hessian_spectrum.client import SpectrumClient\n\n` +
    `with SpectrumClient("${server()}"${key}) as client:\n${INDENT}${statement}\n`
  );
}

function curl(path, request) {
  const body = request
    ? ` -H 'Content-Type: application/json' -d '${JSON.stringify(request).replaceAll("'", "'\\''")}'`
    : "";
  return `curl -s ${server()}/${path}${header()}${body}`;
}

// Buttons that copy what `request` returns.
export function copyButtons(request) {
  return [
    copyButton("Copy curl", () => curl("v1/jobs", request())),
    copyButton("Copy Python", () => program(`result = client.run(${python(request(), INDENT)})`)),
    copyButton("Copy JSON", () => JSON.stringify(request(), null, 2)),
  ];
}

export function againLink(id) {
  return element(
    "a",
    { class: "button", href: `#/new?job=${id}`, "aria-label": `Run job ${id.slice(0, 16)} again with changes` },
    "Run again",
  );
}

export function requestOf(id, signal) {
  return json(`v1/jobs/${id}/request`, { signal });
}

// The request of a job, which is loaded when it is first shown, and commands that fetch the result elsewhere.
export function requestElement(id, signal) {
  const place = element("div");
  const result = [curl(`v1/jobs/${id}/result`), program(`result = client.result("${id}")`)];

  async function fill() {
    try {
      const request = await requestOf(id, signal);
      place.replaceChildren(
        element(
          "div",
          { class: "row" },
          copyButtons(() => request),
        ),
        element("pre", { tabindex: "0", "aria-label": "The request as JSON" }, JSON.stringify(request, null, 2)),
      );
    } catch (error) {
      if (error.name !== "AbortError")
        place.replaceChildren(error.status === 410 ? element("p", {}, error.problem.detail) : problemElement(error));
    }
  }

  const details = element(
    "details",
    {
      toggle: () => {
        if (details.open && !place.firstChild) fill();
      },
    },
    element("summary", {}, "Request"),
    place,
  );
  return element(
    "div",
    {},
    details,
    element(
      "details",
      {},
      element("summary", {}, "Use the result elsewhere"),
      element(
        "div",
        { class: "row" },
        copyButton("Copy curl", () => result[0]),
        copyButton("Copy Python", () => result[1]),
        copyLinkButton("Copy the link to this view"),
      ),
      element("pre", { tabindex: "0", "aria-label": "Commands that fetch the result" }, result.join("\n\n")),
    ),
  );
}
