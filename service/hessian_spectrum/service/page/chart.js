// Interactive plots with uPlot: curves with bands, labelled reference lines, zoom by mouse and keyboard.

import { announce, element, number } from "./elements.js";

const DISTRIBUTIONS = { linear: 1, log: 3, symlog: 4 };
const NUM_COLOURS = 8;
const BAND_OPACITY = "30";
const MOST_SMOOTH_POINTS = 4000; // of longer curves, uPlot draws the extremes in each column of pixels
const MARKER_MARGIN = 0.03;
const FARTHEST_REFERENCE = 3; // in heights of the curves
const MOST_DECADES = 7; // with a tick for each
const FEWEST_DECADES = 2; // up to which ticks are at 1, 2 and 5 times a power of ten
const BELOW = 1000; // ratio of the least height that is shown to that where lines end
const HEADROOM = 3; // above the curves on a logarithmic axis
const READINGS = 50;
// How far a key moves both ends of the horizontal axis, in widths of the axis.
const MOVES = { "+": [0.2, -0.2], "-": [-0.3, 0.3], ArrowLeft: [-0.15, -0.15], ArrowRight: [0.15, 0.15] };
const WHOLE_STEPS = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat();
const FONT = "12px system-ui, sans-serif";

function variable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// On a logarithmic axis, lines lead below the least value that is shown, where the logarithm of 0 would end them.
function onScale(values, scale, least = 0) {
  return scale === "log" ? values.map((value) => (value > 0 || least ? Math.max(value, least / BELOW) : null)) : values;
}

// The ticks of a logarithmic axis; those of uPlot end where a decimal place has no number of its own, near 1e-16.
function logarithmicTicks(plot, axis, min, max) {
  const [first, last] = [Math.floor(Math.log10(min)), Math.ceil(Math.log10(max))];
  const step = Math.max(1, Math.round((last - first) / MOST_DECADES));
  const digits = last - first > FEWEST_DECADES ? [1] : [1, 2, 5];
  const ticks = [];
  for (let exponent = Math.ceil(first / step) * step; exponent <= last; exponent += step) {
    ticks.push(...digits.map((digit) => Number(`${digit}e${exponent}`)));
  }
  return ticks.filter((tick) => tick >= min && tick <= max);
}

// The label of a tick of a logarithmic axis.
function magnitude(value) {
  return value >= 1e-4 && value < 1e4 ? number(value) : value.toExponential().replace("e+", "e");
}

function isAscending(values) {
  for (let index = 1; index < values.length; index += 1) if (!(values[index] >= values[index - 1])) return false;
  return true;
}

function coloursOf(curves) {
  const groups = new Map();
  return curves.map((curve, index) => {
    if (curve.colour !== undefined) return curve.colour;
    const group = curve.group ?? `own ${index}`;
    if (!groups.has(group)) groups.set(group, groups.size % NUM_COLOURS);
    return groups.get(group);
  });
}

export class Chart {
  // label: description for screen readers; zoomed: called with the ends of the part that is shown, or null for
  // everything; part: the ends of the part that is shown at first.
  constructor({ label, height = 340, zoomed = () => {}, part = null }) {
    Object.assign(this, { height, zoomed, part });
    this.node = element("figure", {
      class: "chart",
      tabindex: "0",
      "aria-label": label,
      keydown: (event) => this.handleKey(event),
    });
    this.node.chart = this; // for tests and measurements of what is drawn
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(this.node);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  // content: {curves: [{label, x, y, lower, upper, style, group, colour}], xLabel, yLabel, xScale, yScale, yLimits,
  //   xNames: names of the positions 0, 1, ... on the horizontal axis,
  //   yLeast: the least height that a logarithmic axis shows,
  //   vertical: [{value, label}], horizontal: [{value, label}]}
  draw(content) {
    this.content = { xScale: "linear", yScale: "linear", vertical: [], horizontal: [], ...content };
    if (!this.node.isConnected || !this.node.clientWidth) {
      requestAnimationFrame(() => {
        if (this.node.isConnected) this.update();
      });
      return;
    }
    this.update();
  }

  update() {
    const { curves, xScale, yScale } = this.content;
    const isWhole = (name, scale) =>
      scale === "linear" && curves.every((curve) => Array.prototype.every.call(curve[name], Number.isInteger));
    this.areWhole = { x: isWhole("x", xScale), y: isWhole("y", yScale) };
    const layout = JSON.stringify([
      this.content.xLabel,
      this.content.yLabel,
      xScale,
      yScale,
      this.content.yLimits,
      this.content.xNames,
      this.areWhole,
      curves.map(({ label, style, group, lower, upper, x }) => [
        label,
        style,
        group,
        Boolean(lower && upper),
        x.length > MOST_SMOOTH_POINTS,
      ]),
    ]);
    const data = this.table();
    const { part } = this; // new data would reset it
    if (this.plot && layout === this.layout) this.plot.setData(data);
    else {
      if (this.layout && JSON.parse(this.layout)[0] !== this.content.xLabel) this.part = null;
      this.layout = layout;
      this.plot?.destroy();
      this.plot = new uPlot(this.options(), data, this.node);
    }
    if (part) this.plot.setScale("x", { min: part[0], max: part[1] });
  }

  // The ends of the horizontal axis: markers at the ends of the data are drawn whole.
  xRange(plot, min, max) {
    if (min === null) return [0, 1];
    const [x] = plot.data;
    const isAll = min <= x[0] && max >= x.at(-1);
    const margin =
      min === max
        ? Math.max(Math.abs(min), 1) / 10
        : isAll && this.content.curves.some((curve) => curve.style?.includes("markers"))
          ? (max - min) * MARKER_MARGIN
          : 0;
    return [min - margin, max + margin];
  }

  // The ends of the vertical axis, with the reference lines that are not far from the curves.
  yRange(min, max) {
    const { yScale, yLimits, yLeast } = this.content;
    if (yLimits) return yLimits;
    if (min === null) return yScale === "log" ? [1, 10] : [0, 1];
    if (yScale === "log")
      return yLeast ? [yLeast, HEADROOM * Math.max(max, 2 * yLeast)] : uPlot.rangeLog(min, max, 10, false);
    const far = FARTHEST_REFERENCE * (max - min || Math.abs(max) || 1);
    const near = this.content.horizontal
      .map((each) => each.value)
      .filter((value) => value > min - far && value < max + far);
    return uPlot.rangeNum(Math.min(min, ...near), Math.max(max, ...near), 0.1, true);
  }

  noteZoom(plot, name) {
    if (name !== "x" || this.content.xScale !== "linear") return;
    const { min, max } = plot.scales.x;
    const [x] = plot.data;
    const part = min > x[0] || max < x.at(-1) ? [min, max] : null;
    if (String(part) === String(this.part)) return;
    this.part = part;
    this.zoomed(part);
  }

  redraw() {
    this.layout = null;
    if (this.plot) this.update();
  }

  resize() {
    if (this.plot && this.node.clientWidth) this.plot.setSize({ width: this.node.clientWidth, height: this.height });
  }

  // The ends of a curve's band; where the curve is below what is shown, its band would stand without a curve.
  band({ y, lower, upper }) {
    if (!lower || !upper) return [];
    const { yScale, yLeast } = this.content;
    return yScale === "log" && yLeast
      ? [upper, lower].map((end) => end.map((value, index) => (y[index] > yLeast ? value : 0)))
      : [upper, lower];
  }

  table() {
    const { curves, xScale, yScale, yLeast } = this.content;
    const shown = (column) => onScale(column, yScale, yLeast);
    const tables = curves.map((curve) => {
      const columns = [curve.y, ...this.band(curve)];
      if (xScale !== "log" && isAscending(curve.x)) return [curve.x, ...columns.map(shown)];
      const x = onScale(Array.from(curve.x), xScale);
      const order = x.map((value, index) => [value, index]).filter(([value]) => value !== null);
      if (order.some(([value], index) => index && value < order[index - 1][0])) order.sort((a, b) => a[0] - b[0]);
      return [
        order.map(([value]) => value),
        ...columns.map((column) => shown(order.map(([, index]) => column[index] ?? null))),
      ];
    });
    if (tables.length === 0) return [[]];
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  options() {
    return {
      width: this.node.clientWidth,
      height: this.height,
      scales: this.scales(),
      axes: this.axes(),
      ...this.seriesAndBands(),
      cursor: { drag: { x: true, y: true, uni: 40 } },
      hooks: { draw: [(plot) => this.drawReferences(plot)], setScale: [(plot, name) => this.noteZoom(plot, name)] },
    };
  }

  scales() {
    const { xScale, yScale, yLimits } = this.content;
    const x = { time: false, distr: DISTRIBUTIONS[xScale] };
    const y = { distr: DISTRIBUTIONS[yScale] };
    if (xScale === "linear") x.range = (plot, min, max) => this.xRange(plot, min, max);
    if (yScale !== "symlog" || yLimits) y.range = (plot, min, max) => this.yRange(min, max);
    return { x, y };
  }

  axes() {
    const { xLabel, yLabel, xScale, yScale, xNames } = this.content;
    const axis = {
      stroke: variable("--text"),
      font: FONT,
      labelFont: FONT,
      grid: { stroke: variable("--line"), width: 0.5 },
      ticks: { stroke: variable("--line") },
    };
    const steps = (name) => (this.areWhole[name] ? { incrs: WHOLE_STEPS } : {});
    const ticks = (scale) =>
      scale === "log"
        ? { splits: logarithmicTicks, filter: (plot, all) => all, values: (plot, all) => all.map(magnitude) }
        : { values: (plot, all) => all.map((tick) => (tick === null ? null : number(tick, 4))) };
    const names = xNames ? { values: (plot, all) => all.map((tick) => xNames[tick] ?? "") } : {};
    return [
      { ...axis, label: xLabel, ...ticks(xScale), ...steps("x"), ...names },
      { ...axis, label: yLabel, size: 70, ...ticks(yScale), ...steps("y") },
    ];
  }

  seriesAndBands() {
    const { curves, xLabel } = this.content;
    const value = (plot, each) => number(each);
    const series = [{ label: xLabel, value }];
    const bands = [];
    coloursOf(curves).forEach((colour, index) => {
      const curve = curves[index];
      const stroke = variable(`--curve-${colour}`);
      const style = curve.style ?? "line";
      series.push({
        label: curve.label,
        class: curve.label ? undefined : "unlisted",
        stroke,
        spanGaps: true,
        pxAlign: curve.x.length > MOST_SMOOTH_POINTS ? 1 : 0,
        paths: style === "step" ? uPlot.paths.stepped({ align: 1 }) : undefined,
        width: style === "markers" ? 0 : 1.5,
        dash: style === "dashed" ? [6, 4] : undefined,
        value,
        points: { show: style.includes("markers"), size: 6, fill: stroke },
      });
      if (!curve.lower || !curve.upper) return;
      bands.push({ series: [series.length, series.length + 1], fill: stroke + BAND_OPACITY });
      const end = {
        class: "unlisted",
        stroke: "transparent",
        width: 0,
        spanGaps: true,
        points: { show: false },
        value,
      };
      for (const name of ["upper", "lower"]) series.push({ ...end, label: `${curve.label}, ${name} end` });
    });
    return { series, bands };
  }

  drawReferences(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = ctx.fillStyle = variable("--muted");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.lineWidth = devicePixelRatio;
    const taken = []; // ends of the labels so far; a label that would cover one of them is left out
    for (const { value, label } of this.content.vertical) {
      const x = Math.round(plot.valToPos(value, "x", true));
      const width = label ? ctx.measureText(label).width + 6 * devicePixelRatio : 0;
      const isRight = x + width > bbox.left + bbox.width;
      const [start, end] = isRight ? [x - width, x] : [x, x + width];
      const isLabelled = label && taken.every(([left, right]) => end <= left || start >= right);
      if (isLabelled) taken.push([start, end]);
      ctx.setLineDash([]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + bbox.height);
      ctx.lineTo(x, bbox.top + (isLabelled ? 14 * devicePixelRatio : bbox.height * 0.93));
      ctx.stroke();
      if (isLabelled) {
        ctx.textAlign = isRight ? "right" : "left";
        ctx.fillText(label, x, bbox.top + 11 * devicePixelRatio);
      }
    }
    for (const { value, label } of this.content.horizontal) {
      const y = Math.round(plot.valToPos(value, "y", true));
      ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      if (label) {
        ctx.textAlign = "right";
        ctx.fillText(label, bbox.left + bbox.width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
      }
    }
    ctx.restore();
  }

  handleKey(event) {
    const scale = this.plot?.scales.x;
    if (!scale || event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "0") this.plot.setData(this.plot.data);
    else if (event.shiftKey && direction) this.readValues(direction);
    else if (MOVES[event.key]) {
      const [to, back] = this.content.xScale === "log" ? [Math.log, Math.exp] : [Number, Number];
      const [min, max] = [to(scale.min), to(scale.max)];
      const [left, right] = MOVES[event.key];
      this.plot.setScale("x", { min: back(min + left * (max - min)), max: back(max + right * (max - min)) });
    } else return;
    event.preventDefault();
  }

  // Moves the cursor by a fiftieth of the width, and has the values there read aloud.
  readValues(direction) {
    const { plot } = this;
    const width = plot.over.clientWidth;
    const left = Math.min(
      width - 1,
      Math.max(0, (plot.cursor.left >= 0 ? plot.cursor.left : width / 2) + (direction * width) / READINGS),
    );
    plot.setCursor({ left, top: plot.over.clientHeight / 2 });
    const place = plot.cursor.idx ?? plot.posToIdx(left);
    announce(
      plot.series
        .map(({ label, class: hidden }, index) =>
          hidden || !label ? "" : `${label} ${number(plot.data[index][place], 4)}`,
        )
        .filter(Boolean)
        .join(", "),
    );
  }
}

export function zoomHelp() {
  return element(
    "p",
    { class: "muted" },
    "Drag to zoom, double-click to show everything. With the keyboard: + and − zoom, ← and → move, 0 shows " +
      "everything, Shift with ← or → reads values.",
  );
}

// A chart of a panel as figures, series and sweeps describe it.
export function panelChart(panel) {
  const chart = new Chart({ label: `${panel.title}: ${panel.y_label} against ${panel.x_label}` });
  const lines = panel.curves.filter((curve) => !["horizontal", "vertical"].includes(curve.style));
  const reference = (style, values) =>
    panel.curves
      .filter((curve) => curve.style === style)
      .flatMap((curve) => values(curve).map((value) => ({ value, label: curve.label })));
  chart.draw({
    curves: lines,
    xLabel: panel.x_label,
    yLabel: panel.y_label,
    xScale: panel.x_scale,
    yScale: panel.y_scale,
    yLimits: panel.y_limits ?? undefined,
    xNames: panel.x_categories ?? undefined,
    vertical: reference("vertical", (curve) => curve.x),
    horizontal: reference("horizontal", (curve) => curve.y),
  });
  return element("section", {}, element("h3", {}, panel.title), chart.node);
}
