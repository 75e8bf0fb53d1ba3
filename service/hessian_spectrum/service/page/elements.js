// Elements of the page. Text from the server becomes text nodes: it is never parsed as markup.

const MOST_DIGITS = 12;
const TIME = new Intl.DateTimeFormat("en-GB", { dateStyle: "short", timeStyle: "medium" });

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (["value", "checked", "disabled"].includes(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function list(pairs) {
  return element(
    "dl",
    {},
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

// A container that scrolls wide content, also by keyboard.
export function scrollable(label, ...children) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, children);
}

// columns: [{title, number, wide}], rows: arrays of text or elements.
export function plainTable(columns, rows, caption) {
  const classOf = (column) => [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") || undefined;
  return element(
    "table",
    {},
    caption ? element("caption", {}, caption) : null,
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        columns.map((column) => element("th", { scope: "col", class: classOf(column) }, column.title)),
      ),
    ),
    element(
      "tbody",
      {},
      rows.map((row) =>
        element(
          "tr",
          {},
          row.map((cell, index) => element("td", { class: classOf(columns[index]) }, cell)),
        ),
      ),
    ),
  );
}

export function table(columns, rows, caption) {
  return scrollable(caption ?? "Table", plainTable(columns, rows, caption));
}

export function number(value, digits = 6) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const text = Math.abs(value) < 1e-4 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return text.includes("e") ? text.replace(/\.?0+e/, "e") : text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

// A number with its 95 % interval, in as many digits as distinguish the ends of the interval.
export function withInterval(estimate, digits = 6) {
  if (!estimate) return "–";
  const { value, lower, upper } = estimate;
  const [first, last] = [lower, upper].map((end) => (end === null || end === undefined ? "?" : number(end, digits)));
  if (lower === null && upper === null) return number(value, digits);
  if (first !== last) return `${number(value, digits)} [${first}, ${last}]`;
  return digits < MOST_DIGITS ? withInterval(estimate, digits + 2) : number(value, digits);
}

export function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "";
  if (seconds < 100) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  const hours = seconds / 3600;
  if (hours < 72) return `${hours < 10 ? hours.toFixed(1) : Math.round(hours)} h`;
  const days = hours / 24;
  return days < 730 ? `${Math.round(days)} days` : `${Math.round(days / 365.25)} years`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

// The first sixteen digits of an id: the time of submission in microseconds.
export function shortId(id) {
  return id.slice(0, 16);
}

export function time(text) {
  return text ? element("time", { datetime: text }, TIME.format(new Date(text))) : "";
}

export function announce(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => {
    status.textContent = "";
  }, 6000);
}

export function announceProblem(error) {
  announce(error.problem ? [error.problem.title, error.problem.detail].filter(Boolean).join(": ") : String(error));
}

export function announceOutage(error) {
  announce(`${error.problem?.title ?? error}. This page keeps trying.`);
}

export function copyButton(label, text) {
  return element(
    "button",
    {
      type: "button",
      click: async () => {
        try {
          await navigator.clipboard.writeText(text());
          announce("Copied.");
        } catch {
          announce("The browser does not allow this page to copy; select the text instead.");
        }
      },
    },
    label,
  );
}

// A problem of the server as people read it: its title, and each field with what is wrong.
export function problemElement(error) {
  const problem = error.problem ?? { title: String(error.message ?? error) };
  const errors = problem.errors ?? [];
  return element(
    "div",
    { class: "error", role: "alert" },
    element("strong", {}, problem.title),
    errors.length
      ? element(
          "ul",
          {},
          errors.map((each) =>
            element(
              "li",
              {},
              element("code", {}, each.loc.filter((part) => part !== "body").join(".") || "request"),
              `: ${each.msg}`,
            ),
          ),
        )
      : element("p", {}, problem.detail ?? ""),
  );
}

// A slider with its value beside it. `format` makes the text of a value.
export function slider({ name, label, min, max, step, value, help, change, format = (each) => number(each, 4) }) {
  const output = element("output", { for: name }, format(value));
  const input = element("input", {
    type: "range",
    id: name,
    min,
    max,
    step,
    value: String(value),
    input: () => {
      output.textContent = format(Number(input.value));
      change(Number(input.value));
    },
  });
  const node = element(
    "div",
    { class: "field" },
    output,
    element("label", { for: name }, label),
    input,
    help ? element("small", {}, help) : null,
  );
  node.show = (shown) => {
    // does not call `change`
    input.value = String(shown);
    output.textContent = format(shown);
  };
  return node;
}

// The scale of a vertical axis; "" stands for the default of the curve.
export function scaleChoice(value, change) {
  return choice({
    name: "y",
    label: "Vertical axis",
    value,
    change: (y) => change({ y }),
    options: [
      ["", "automatic"],
      ["linear", "linear"],
      ["log", "logarithmic"],
    ],
  });
}

export function choice({ name, label, options, value, change }) {
  return element(
    "div",
    { class: "field" },
    element("label", { for: name }, label),
    element(
      "select",
      { id: name, change: (event) => change(event.target.value) },
      options.map(([key, text]) => element("option", { value: key, selected: key === value }, text)),
    ),
  );
}

export function copyLinkButton(label = "Copy the link") {
  return copyButton(label, () => location.href);
}
