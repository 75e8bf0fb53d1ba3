// A form for a new job: presets, fields from the schema, files, and the cost before anything is submitted.

import { json, sendFile } from "./api.js";
import { Form } from "./form.js";
import { announce, bytes, choice, copyLinkButton, duration, element, problemElement } from "./elements.js";
import { copyButtons, requestOf } from "./request.js";

const MEDIA_TYPES = {
  pt2: "application/vnd.pytorch.pt2",
  onnx: "application/onnx",
  npz: "application/x-npz",
  npy: "application/x-npy",
  safetensors: "application/x-safetensors",
  bin: "application/octet-stream",
};
const PAUSE_MILLISECONDS = 400;
const LONGEST_LINK = 8000; // characters of a request that the address of the view contains
const WINDOWS = { num_sequences: 8, sequence_length: 64 }; // initial choice for uploaded tokens

// What an uploaded file is in the request, in words, and the fields that refer to it.
function entered(artifact, { model }) {
  const reference = { kind: "artifact", id: artifact.id };
  if (artifact.kind === "program") return ["network", { model: { kind: "exported", program: reference } }];
  if (artifact.kind === "tokens") return ["data", { data: { ...reference, ...WINDOWS } }];
  if ("x" in artifact.arrays || "y" in artifact.arrays) return ["data", { data: reference }];
  return model?.kind === "exported"
    ? ["parameters of the network", { model: { ...model, parameters: reference } }]
    : [null, {}];
}

// Where files are dropped or chosen; `upload` receives one file.
function dropBox(upload) {
  const change = ({ target }) => target.files[0] && upload(target.files[0]);
  const drop = (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  };
  return element(
    "fieldset",
    { dragover: (event) => event.preventDefault(), drop },
    element("legend", {}, "Your own network or data"),
    element(
      "label",
      { for: "file" },
      "Drop a network (.pt2, .onnx), data (.npz with x and y) or parameters (.safetensors) here, or choose a file: ",
    ),
    element("input", { type: "file", id: "file", change }),
  );
}

export async function newJobView(place, { signal, settings, keepSettings }) {
  const document = await json("openapi.json", { signal });
  const components = document.components.schemas;
  const { examples } = document.paths["/v1/jobs"].post.requestBody.content["application/json"];
  const mapping = components.JobRequest.discriminator.mapping;
  const form = new Form(components, () => changed());
  const text = element("textarea", {
    rows: "16",
    "aria-label": "The request as JSON",
    spellcheck: "false",
    change: () => {
      try {
        fill(JSON.parse(text.value));
      } catch (error) {
        announce(`This is not JSON: ${error.message}`);
      }
    },
  });
  const cost = element("div", { role: "status" });
  const submit = element("button", { type: "button", class: "primary", click: () => post() }, "Submit");
  const uploads = element("div");
  let timer = null;
  let pending = null;
  let kind = null;

  function fill(request) {
    if (!(request.kind in mapping)) {
      announce(`There is no kind of job ${request.kind}.`);
      return;
    }
    kind = request.kind;
    form.fill({ $ref: mapping[kind] }, request);
    changed();
  }

  // The request that the address names: that of a job, or one that the link contains.
  async function start() {
    const job = settings.get("job");
    try {
      return job ? await requestOf(job, signal) : JSON.parse(settings.get("request"));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      place.append(problemElement(job ? error : { message: "The link contains no request." }));
      return null;
    }
  }

  function request() {
    return { ...form.value, kind };
  }

  function changed() {
    if (!form.root) return;
    text.value = JSON.stringify(request(), null, 2);
    const link = JSON.stringify(request());
    keepSettings({ request: link.length < LONGEST_LINK ? link : "" });
    clearTimeout(timer);
    timer = setTimeout(estimate, PAUSE_MILLISECONDS);
  }

  function showProblem(error) {
    form.showErrors(error.problem?.errors ?? []);
    cost.replaceChildren(problemElement(error));
  }

  async function estimate() {
    pending?.abort();
    pending = new AbortController();
    try {
      const found = await json("v1/estimates", { method: "POST", body: request(), signal: pending.signal });
      form.showErrors([]);
      cost.replaceChildren(
        element(
          "p",
          { class: found.fits === false ? "error" : undefined },
          found.summary,
          found.seconds ? ` About ${duration(found.seconds)} on two cores.` : "",
        ),
      );
    } catch (error) {
      if (error.name !== "AbortError") showProblem(error);
    }
  }

  async function post() {
    submit.disabled = true;
    try {
      const job = await json("v1/jobs", { method: "POST", body: request(), signal });
      location.hash = `#/jobs/${job.id}`;
    } catch (error) {
      if (error.name !== "AbortError") showProblem(error);
    } finally {
      submit.disabled = false;
    }
  }

  async function upload(file) {
    const type = MEDIA_TYPES[file.name.split(".").at(-1).toLowerCase()];
    if (!type) {
      announce(`Files of these kinds are accepted: ${Object.keys(MEDIA_TYPES).join(", ")}.`);
      return;
    }
    announce(`${file.name} is being uploaded.`);
    const bar = element("progress", { max: "1", value: "0", "aria-label": `Upload of ${file.name}` });
    const row = element("p", {}, `${file.name}, ${bytes(file.size)} `, bar);
    uploads.append(row);
    const progressed = (share) => {
      bar.value = share;
    };
    try {
      const artifact = await sendFile("v1/artifacts", file, { type, signal, progressed });
      const [place, value] = entered(artifact, request());
      if (place) fill({ ...request(), ...value });
      announce(
        place
          ? `${file.name} is uploaded and entered as the ${place}.`
          : `${file.name} is uploaded, but not entered: without arrays x or y it is no data, and parameters need a ` +
              "network. Drop the network first.",
      );
    } catch (error) {
      if (error.name !== "AbortError") cost.replaceChildren(problemElement(error));
    } finally {
      row.remove();
    }
  }

  place.append(
    element("h1", {}, "New job"),
    choice({
      name: "preset",
      label: "Start from",
      value: "",
      options: Object.entries(examples).map(([name, each]) => [name, each.summary]),
      change: (name) => fill(examples[name].value),
    }),
    dropBox(upload),
    uploads,
    element(
      "div",
      { class: "columns" },
      form.node,
      element(
        "div",
        { class: "sticky" },
        element("h2", {}, "Cost"),
        cost,
        element("div", { class: "row" }, submit, copyButtons(request), copyLinkButton()),
        element("h2", {}, "Request"),
        text,
      ),
    ),
  );
  signal.addEventListener(
    "abort",
    () => {
      clearTimeout(timer);
      pending?.abort();
    },
    { once: true },
  );
  fill((await start()) ?? Object.values(examples)[0].value);
}
