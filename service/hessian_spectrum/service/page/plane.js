// Eigenvectors in the plane that two vectors of weights span: one picture for each block of parameters.

import { element, number, table } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const RIM = 1.28; // of the picture; eigenvectors have at most length 1
const HEAD = 0.07;
const LEAST_LENGTH = 0.01;

// The colour of an outlier, in descending order: 0 is that of the bulk, and 7 that of zeros.
export function outlierColour(index) {
  return 1 + (index % 6);
}

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function label(text, [x, y], name) {
  const length = Math.hypot(x, y) || 1;
  return shape(
    "text",
    {
      class: name,
      x: x + 0.09 * (x / length),
      y: -(y + 0.09 * (y / length)),
      "text-anchor": x < -0.3 ? "end" : x > 0.3 ? "start" : "middle",
      "dominant-baseline": "middle",
    },
    text,
  );
}

function arrow([x, y], name) {
  const length = Math.hypot(x, y);
  if (length < LEAST_LENGTH) return shape("circle", { class: name, r: 0.02 });
  const [along, across] = [
    [x / length, y / length],
    [-y / length, x / length],
  ];
  const corner = (side) => along.map((each, index) => [x, y][index] - HEAD * each + side * 0.5 * HEAD * across[index]);
  const path = [[x, y], corner(1), corner(-1)].map(([right, up]) => `${right},${-up}`).join(" ");
  return shape(
    "g",
    { class: name },
    shape("line", { x1: 0, y1: 0, x2: x, y2: -y }),
    shape("polygon", { points: path }),
  );
}

// directions: [[label, [x, y]]] of length 1; vectors: [{value, at: [x, y]}].
function picture(title, directions, vectors) {
  const words = vectors
    .map(({ value, at }) => `${number(value, 4)} at (${at.map((each) => number(each, 3)).join(", ")})`)
    .join("; ");
  const drawing = shape(
    "svg",
    {
      viewBox: `${-RIM} ${-RIM} ${2 * RIM} ${2 * RIM}`,
      role: "img",
      "aria-label": `${title}: eigenvectors of ${words}`,
    },
    shape("circle", { class: "rim", r: 1 }),
    shape("line", { class: "rim", x1: -1, x2: 1 }),
    shape("line", { class: "rim", y1: -1, y2: 1 }),
    ...directions.flatMap(([name, [x, y]]) => [
      shape("line", { class: "direction", x2: x, y2: -y }),
      label(name, [x, y], "direction"),
    ]),
    ...vectors.map(({ at }, index) => arrow(at, `vector-${outlierColour(index)}`)),
  );
  return element("figure", { class: "plane" }, element("figcaption", {}, title), drawing);
}

function dot(first, second) {
  return first.reduce((sum, each, index) => sum + each * second[index], 0);
}

// The entries of a vector that belong to each array of parameters.
function blocksOf(vector, parameters) {
  let start = 0;
  return new Map(
    parameters.map(({ name, shape: sizes }) => {
      const size = sizes.reduce((product, each) => product * each, 1);
      start += size;
      return [name, vector.slice(start - size, start)];
    }),
  );
}

// eigenvectors: as the server returns them; plane: {blocks, along, across, directions}.
export function planeElement({ parameters, eigenvalues, vectors }, { blocks, along, across, directions }) {
  const parts = vectors.map((vector) => blocksOf(vector, parameters));
  const at = (block, index) => [dot(parts[index].get(block), along), dot(parts[index].get(block), across)];
  const pictures = blocks.map((block) =>
    picture(
      `Entries of ${block}`,
      directions,
      eigenvalues.map((value, index) => ({ value, at: at(block, index) })),
    ),
  );
  const names = parameters.map((each) => each.name);
  const rows = eigenvalues.map((value, index) => [
    element("span", { class: `key vector-${outlierColour(index)}` }, number(value)),
    ...names.map((name) => number(dot(parts[index].get(name), parts[index].get(name)), 3)),
  ]);
  return element(
    "div",
    {},
    element("div", { class: "planes" }, pictures),
    table(
      [{ title: "Eigenvalue", number: true }, ...names.map((name) => ({ title: `Share of ${name}`, number: true }))],
      rows,
    ),
  );
}
