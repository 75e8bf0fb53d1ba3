// Requests to the server that this page came from, with the API key of this tab.

const STORED_KEY = "hessian-spectrum-api-key";
const RETRY_MILLISECONDS = 1000;

export class ProblemError extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
    this.status = problem.status;
  }
}

export function setKey(text) {
  sessionStorage.setItem(STORED_KEY, text.trim());
}

export function hasKey() {
  return Boolean(sessionStorage.getItem(STORED_KEY));
}

function address(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI);
}

function headersWithKey(headers) {
  const key = sessionStorage.getItem(STORED_KEY);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText || "Error", status: response.status };
  }
}

const AWAY = { title: "The server does not answer", status: 0, detail: "It may be restarting; try again." };

function askForKey() {
  document.dispatchEvent(new CustomEvent("key-required", { detail: { isGiven: hasKey() } }));
}

export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const isJson = body !== undefined && !(body instanceof Blob);
  const all = headersWithKey(isJson ? { "Content-Type": "application/json", ...headers } : headers);
  let response;
  try {
    response = await fetch(address(path), { method, headers: all, signal, body: isJson ? JSON.stringify(body) : body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(AWAY);
  }
  if (response.status === 401) askForKey();
  if (!response.ok) throw new ProblemError(await problemOf(response));
  return response;
}

export async function json(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

// Sends a file; `progressed` is called with the share that has been sent. `fetch` does not tell it.
export function sendFile(path, file, { type, signal, progressed }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(headersWithKey({ "Content-Type": type }))) {
      request.setRequestHeader(name, value);
    }
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => progressed(total ? loaded / total : 1);
    request.onload = () => {
      if (request.status === 401) askForKey();
      if (request.status < 300) resolve(request.response);
      else
        reject(new ProblemError(request.response ?? { title: request.statusText || "Error", status: request.status }));
    };
    request.onerror = () => reject(new ProblemError(AWAY));
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

export async function download(path, name) {
  const response = await send(path);
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}

// Repeats a request that fails because the server is away or busy; `failed` is told the first time.
export async function persist(action, signal, failed = () => {}) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await action();
    } catch (error) {
      const isTransient = [0, 429].includes(error.status) || error.status >= 500;
      if (signal.aborted || !isTransient) throw error;
      if (attempt === 0) failed(error);
    }
    await pause(RETRY_MILLISECONDS, signal);
  }
}

async function* eventsOf(response, connected) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let isFirst = true;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    if (isFirst) connected(); // the server sends something as soon as no change is missed any more
    isFirst = false;
    text += value.replaceAll("\r", "");
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = { id: null, data: [] };
      for (const line of text.slice(0, end).split("\n")) {
        const [, name, content] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") event.data.push(content);
        else if (name) event[name] = content;
      }
      text = text.slice(end + 2);
      if (event.data.length) yield { ...event, data: JSON.parse(event.data.join("\n")) };
    }
  }
}

// Server-sent events, followed over outages of the server; `EventSource` cannot send the key.
export async function* follow(path, signal, { connected = () => {} } = {}) {
  let last = null;
  while (!signal.aborted) {
    try {
      const response = await send(path, { signal, headers: last ? { "Last-Event-ID": last } : {} });
      if (response.status === 204) return;
      for await (const event of eventsOf(response, connected)) {
        last = event.id ?? last;
        yield event.data;
      }
    } catch (error) {
      if (signal.aborted || [401, 403, 404].includes(error.status)) return;
    }
    await pause(RETRY_MILLISECONDS, signal);
  }
}
