// A form made from a JSON schema: every field with its description, and the errors of the server at the fields.

import { element } from "./elements.js";

const PARENTS_OPEN = ["model", "data", "method", "train"];

export class Form {
  // components: the schemas that references lead to; changed: called after each change.
  constructor(components, changed) {
    this.components = components;
    this.changed = changed;
    this.faults = new Map(); // path -> element
    this.node = element("div");
  }

  fill(schema, value) {
    this.faults.clear();
    this.root = this.part(schema, value, [], { isRequired: true, label: null });
    this.node.replaceChildren(this.root.node);
  }

  get value() {
    return this.root.read();
  }

  showErrors(errors) {
    for (const place of this.faults.values()) place.textContent = "";
    for (const { loc, msg } of errors) {
      const path = loc.filter((part) => part !== "body").map(String);
      while (path.length && !this.faults.has(path.join("."))) path.pop();
      const place = path.length ? this.faults.get(path.join(".")) : null;
      if (place) {
        place.textContent = msg;
        for (let parent = place.closest("details"); parent; parent = parent.parentElement.closest("details"))
          parent.open = true;
      }
    }
  }

  resolved(schema) {
    let own = schema;
    const around = {};
    while (own) {
      for (const key of ["description", "default", "title"]) if (key in own && !(key in around)) around[key] = own[key];
      const kinds = (own.anyOf ?? []).filter((each) => each.type !== "null");
      if (own.$ref) own = this.components[own.$ref.split("/").at(-1)];
      else if (own.anyOf && kinds.length === 1) [own] = kinds;
      else if (own.allOf?.length === 1) [own] = own.allOf;
      else break;
    }
    return { ...own, ...around };
  }

  // Of several kinds of objects with the same name, the one with the most required fields that are all given.
  alternative(schema, value) {
    if (schema.properties) return schema;
    const kinds = schema.oneOf
      .map((each) => this.resolved(each))
      .sort((a, b) => (b.required?.length ?? 0) - (a.required?.length ?? 0));
    return kinds.find((each) => (each.required ?? []).every((name) => name in (value ?? {}))) ?? kinds.at(-1);
  }

  part(schema, value, path, { isRequired, label }) {
    const own = this.resolved(schema);
    if (own.oneOf && own.discriminator) return this.union(own, value, path, { isRequired, label });
    if (own.properties) return this.object(own, value, path, { isRequired, label });
    return this.scalar(own, value, path, { isRequired, label });
  }

  fault(path) {
    const place = element("span", { class: "error", role: "alert" });
    this.faults.set(path.join("."), place);
    return place;
  }

  scalar(schema, value, path, { isRequired, label }) {
    const id = `field-${path.join("-")}`;
    const fallback = schema.default === undefined || schema.default === null ? "" : JSON.stringify(schema.default);
    let input;
    if (schema.const !== undefined && isRequired) return { node: element("span"), read: () => schema.const };
    if (schema.enum || schema.const !== undefined || schema.type === "boolean") {
      const options = schema.enum ?? (schema.const === undefined ? [true, false] : [schema.const]);
      input = element(
        "select",
        { id },
        element("option", { value: "" }, fallback ? `default: ${fallback}` : "not set"),
        options.map((each) =>
          element("option", { value: JSON.stringify(each), selected: each === value }, String(each)),
        ),
      );
    } else {
      input = element("input", {
        id,
        type: "text",
        spellcheck: "false",
        placeholder: fallback,
        value: textOf(value, schema),
        inputmode: ["integer", "number"].includes(schema.type) ? "decimal" : undefined,
      });
    }
    input.addEventListener("change", () => this.changed());
    const node = element(
      "div",
      { class: "field" },
      element("label", { for: id }, label),
      input,
      schema.description ? element("small", {}, schema.description) : null,
      this.fault(path),
    );
    return { node, read: () => valueOf(input.value, schema) };
  }

  object(schema, value, path, { isRequired, label }) {
    const required = new Set(schema.required ?? []);
    const parts = Object.entries(schema.properties).map(([name, field]) => [
      name,
      this.part(field, value?.[name], [...path, name], { isRequired: required.has(name), label: name }),
    ]);
    const read = () =>
      Object.fromEntries(parts.map(([name, part]) => [name, part.read()]).filter(([, each]) => each !== undefined));
    return this.container(
      parts.map(([, part]) => part.node),
      { read, value, path, isRequired, label, description: schema.description },
    );
  }

  union(schema, value, path, { isRequired, label }) {
    const { propertyName, mapping } = schema.discriminator;
    const names = Object.keys(mapping);
    const inner = element("div");
    let part = null;
    const choose = (kind, fields) => {
      for (const key of [...this.faults.keys()])
        if (key.startsWith(`${[...path, ""].join(".")}`) && key !== path.join(".")) this.faults.delete(key);
      part = this.object(this.alternative(this.resolved({ $ref: mapping[kind] }), fields), fields, path, {
        isRequired: true,
        label: null,
      });
      inner.replaceChildren(part.node);
    };
    const id = `field-${[...path, propertyName].join("-")}`;
    const select = element(
      "select",
      {
        id,
        change: () => {
          choose(select.value, undefined);
          this.changed();
        },
      },
      names.map((each) => element("option", { value: each, selected: each === value?.[propertyName] }, each)),
    );
    choose(value?.[propertyName] ?? names[0], value);
    const head = element("div", { class: "field" }, element("label", { for: id }, propertyName), select);
    return this.container([head, inner], { read: () => part.read(), value, path, isRequired, label });
  }

  // An optional part belongs to the request while it is open.
  container(nodes, { read, value, path, isRequired, label, description }) {
    if (label === null) return { node: element("div", {}, nodes), read };
    const fault = this.fault(path);
    if (isRequired) return { node: element("fieldset", {}, element("legend", {}, label), fault, nodes), read };
    const isOpen = value !== undefined && value !== null;
    const details = element(
      "details",
      { open: isOpen || undefined, toggle: () => this.changed() },
      element("summary", {}, `${label} (optional${PARENTS_OPEN.includes(label) ? "" : ", used when open"})`),
      description ? element("small", { class: "muted" }, description) : null,
      fault,
      nodes,
    );
    return { node: details, read: () => (details.open ? read() : undefined) };
  }
}

function textOf(value, schema) {
  if (value === undefined || value === null) return "";
  return typeof value === "string" && schema.type === "string"
    ? value
    : typeof value === "string"
      ? value
      : JSON.stringify(value);
}

// Empty fields are left out; text that is no JSON stays text, about which the server says what is wrong.
function valueOf(text, schema) {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (schema.type === "string" && !schema.enum && schema.const === undefined) return trimmed;
  try {
    return JSON.parse(trimmed);
  } catch {
    return trimmed;
  }
}
