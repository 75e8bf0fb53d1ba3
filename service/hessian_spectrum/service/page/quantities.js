// Numbers that follow from a result.

import { number, withInterval } from "./elements.js";

const LOGARITHMIC = ["density", "log_density", "magnitude", "histogram"];
const LEAST_SHARE = 0.3; // of one eigenvalue
const LEAST_PEAK = 0.02; // of the Gaussian of one eigenvalue

// What counts as an outlier. Lengths are shares of the largest magnitude; thresholds for display, without a source.
const MOST_EIGENVALUES_OF_A_NODE = 10;
const LEAST_SHARE_OF_A_BULK_NODE = 0.02;
const LARGEST_RESIDUAL = 1e-3;
const LEAST_MAGNITUDE = 0.05;
const LEAST_DISTANCE = 0.01; // of two outliers; nodes that are nearer are the same eigenvalue in different probes

function negated({ value, lower, upper }) {
  const other = (end) => (end === null || end === undefined ? null : -end);
  return { value: -value, lower: other(upper), upper: other(lower) };
}

function ratio(top, bottom) {
  const lower = top.lower > 0 && bottom.upper > 0 ? top.lower / bottom.upper : null;
  const upper = top.upper > 0 && bottom.lower > 0 ? top.upper / bottom.lower : null;
  return { value: top.value / bottom.value, lower, upper };
}

// The largest eigenvalue, as far as the result tells it.
export function largestOf({ largest, eigenvalues, repeated, eigenpairs, which }) {
  if (largest) return withInterval(largest);
  if (eigenvalues)
    return number([...eigenvalues, ...(repeated ? [repeated.value] : [])].reduce((a, b) => Math.max(a, b)));
  return ["largest", "both-ends"].includes(which) ? withInterval(eigenpairs[0]) : "";
}

// Largest over smallest magnitude, with its interval, from the ends of the spectrum; known only for definite matrices.
export function conditionFromEnds(largest, smallest) {
  if (smallest.value > 0) return withInterval(ratio(largest, smallest));
  if (largest.value < 0) return withInterval(ratio(negated(smallest), negated(largest)));
  return "unknown: eigenvalues of both signs";
}

// Largest over smallest magnitude of all eigenvalues that are not zero up to rounding.
export function conditionOfAll(eigenvalues, threshold, numZeros) {
  let [largest, smallest] = [0, Infinity];
  for (const value of eigenvalues) {
    const magnitude = Math.abs(value);
    if (magnitude <= threshold) continue;
    largest = Math.max(largest, magnitude);
    smallest = Math.min(smallest, magnitude);
  }
  if (!largest) return "undefined: every eigenvalue is zero";
  const around = (value) => ({ value, lower: value - threshold, upper: value + threshold });
  const text = withInterval(ratio(around(largest), around(smallest)));
  return numZeros ? `${text} without the ${number(numZeros)} zeros, infinite with them` : text;
}

// Ritz values far from 0 that have converged and have about the weight of one eigenvalue, in descending order.
export function outliersOf({ quadrature, num_parameters: count, largest, smallest }) {
  const width = Math.max(Math.abs(largest.value), Math.abs(smallest.value));
  const nodes = quadrature.flatMap(({ nodes: own, weights, residuals }) =>
    own.filter(
      (node, index) =>
        residuals &&
        weights[index] < MOST_EIGENVALUES_OF_A_NODE / count + LEAST_SHARE_OF_A_BULK_NODE &&
        Math.abs(residuals[index]) < LARGEST_RESIDUAL * width &&
        Math.abs(node) > LEAST_MAGNITUDE * width,
    ),
  );
  const found = [];
  for (const node of nodes.sort((a, b) => b - a)) {
    if (!found.length || found.at(-1) - node > LEAST_DISTANCE * width) found.push(node);
  }
  return found;
}

// The ends of the bulk: the largest negative and the smallest positive outlier, or the ends of the grid.
export function bulkOf(outliers, grid) {
  const lower = Math.max(grid[0], ...outliers.filter((each) => each < 0));
  const upper = Math.min(grid.at(-1), ...outliers.filter((each) => each > 0));
  return [lower, upper];
}

// The points of a curve with a band whose grid lies within the ends.
export function within([lower, upper], { grid, values, band }) {
  const first = grid.findIndex((each) => each >= lower);
  const next = grid.findIndex((each) => each > upper);
  const cut = (column) => column.slice(first, next < 0 ? grid.length : next);
  return { grid: cut(grid), values: cut(values), band: { lower: cut(band.lower), upper: cut(band.upper) } };
}

// The scale of a curve's vertical axis, unless another one is chosen.
export function scaleOf({ curve, y }) {
  return y || (LOGARITHMIC.includes(curve) ? "log" : "linear");
}

// The least height that a logarithmic axis shows: a small part of the height of a single eigenvalue.
export function leastShown({ num_parameters: count, num_steps: steps, smoothing, ...curves }, name) {
  if (name === "cumulative") return LEAST_SHARE / count;
  const [first, last] = [curves[name].grid[0], curves[name].grid.at(-1)];
  const width = name === "log_density" ? last * Math.log(last / first) : last - first;
  const deviation = width / Math.max(steps - 1, 1) / Math.sqrt(8 * Math.log(smoothing.kappa));
  return LEAST_PEAK / (count * deviation * Math.sqrt(2 * Math.PI));
}

// The share of eigenvalues below 0, as far as the grid tells: below its last point under 0.
export function negativeShare({ grid, values, band }) {
  const index = grid.findLastIndex((each) => each < 0);
  if (index < 0) return null;
  return [
    `Share below ${number(grid[index], 3)}`,
    withInterval({ value: values[index], lower: band.lower[index], upper: band.upper[index] }, 4),
  ];
}
