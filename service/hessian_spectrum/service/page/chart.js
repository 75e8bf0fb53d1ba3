// Interactive plots with uPlot: curves with bands, labelled reference lines, zoom by mouse and keyboard.

import { element, number } from "./elements.js";

const DISTRIBUTIONS = { linear: 1, log: 3, symlog: 4 };
const NUM_COLOURS = 8;
const BAND_OPACITY = "30";
const FONT = "12px system-ui, sans-serif";

function variable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function onScale(values, scale) {
  return scale === "log" ? values.map((value) => (value > 0 ? value : null)) : values;
}

// The label of a power of ten; other ticks of a logarithmic axis have none.
function decade(value) {
  const exponent = value > 0 ? Math.log10(value) : NaN;
  return Math.abs(exponent - Math.round(exponent)) < 1e-9 ? (Math.abs(exponent) < 4 ? number(value) : `1e${Math.round(exponent)}`) : null;
}

function coloursOf(curves) {
  const groups = new Map();
  return curves.map((curve, index) => {
    const group = curve.group ?? `own ${index}`;
    if (!groups.has(group)) groups.set(group, groups.size % NUM_COLOURS);
    return groups.get(group);
  });
}

export class Chart {
  // `label` says in words what is drawn, for people who do not see it.
  constructor({ label, height = 340 }) {
    this.height = height;
    this.node = element("figure", { class: "chart", tabindex: "0", "aria-label": label,
      keydown: (event) => this.handleKey(event) });
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(this.node);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  // content: {curves: [{label, x, y, lower, upper, style, group}], xLabel, yLabel, xScale, yScale, yLimits,
  //   vertical: [{value, label}], horizontal: [{value, label}]}
  draw(content) {
    this.content = { xScale: "linear", yScale: "linear", vertical: [], horizontal: [], ...content };
    if (!this.node.isConnected || !this.node.clientWidth) {
      requestAnimationFrame(() => { if (this.node.isConnected) this.update(); });
      return;
    }
    this.update();
  }

  update() {
    const { curves, xScale, yScale } = this.content;
    const layout = JSON.stringify([this.content.xLabel, this.content.yLabel, xScale, yScale, this.content.yLimits,
      curves.map(({ label, style, group, lower, upper }) => [label, style, group, Boolean(lower && upper)])]);
    const data = this.table();
    if (this.plot && layout === this.layout) {
      this.plot.setData(data);
      return;
    }
    this.layout = layout;
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), data, this.node);
  }

  redraw() {
    this.layout = null;
    if (this.plot) this.update();
  }

  resize() {
    if (this.plot && this.node.clientWidth) this.plot.setSize({ width: this.node.clientWidth, height: this.height });
  }

  table() {
    const { curves, xScale, yScale } = this.content;
    const tables = curves.map((curve) => {
      const x = onScale(Array.from(curve.x), xScale);
      const columns = [curve.y, ...(curve.lower && curve.upper ? [curve.upper, curve.lower] : [])];
      const order = x.map((value, index) => [value, index]).filter(([value]) => value !== null);
      if (order.some(([value], index) => index && value < order[index - 1][0])) order.sort((a, b) => a[0] - b[0]);
      return [order.map(([value]) => value),
        ...columns.map((column) => onScale(order.map(([, index]) => column[index] ?? null), yScale))];
    });
    if (tables.length === 0) return [[]];
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  options() {
    const { curves, xLabel, yLabel, xScale, yScale, yLimits } = this.content;
    const series = [{ label: xLabel, value: (plot, value) => number(value) }];
    const bands = [];
    coloursOf(curves).forEach((colour, index) => {
      const curve = curves[index];
      const stroke = variable(`--curve-${colour}`);
      const style = curve.style ?? "line";
      const hasMarkers = style.includes("markers");
      series.push({ label: curve.label, class: curve.label ? undefined : "unlisted", stroke, spanGaps: true, width: style === "markers" ? 0 : 1.5,
        dash: style === "dashed" ? [6, 4] : undefined, value: (plot, value) => number(value),
        points: { show: hasMarkers, size: 6, fill: stroke } });
      if (curve.lower && curve.upper) {
        bands.push({ series: [series.length, series.length + 1], fill: stroke + BAND_OPACITY });
        for (const name of ["upper", "lower"]) {
          series.push({ label: `${curve.label}, ${name} end`, class: "unlisted", stroke: "transparent", width: 0,
            spanGaps: true, points: { show: false }, value: (plot, value) => number(value) });
        }
      }
    });
    const axis = { stroke: variable("--text"), font: FONT, labelFont: FONT, grid: { stroke: variable("--line"), width: 0.5 },
      ticks: { stroke: variable("--line") } };
    const values = (scale) => (plot, splits) => splits.map((split) => (scale === "log" ? decade(split) : split === null ? null : number(split, 4)));
    return {
      width: this.node.clientWidth,
      height: this.height,
      scales: {
        x: { time: false, distr: DISTRIBUTIONS[xScale] },
        y: { distr: DISTRIBUTIONS[yScale], ...(yLimits ? { range: () => yLimits } : {}) },
      },
      axes: [{ ...axis, label: xLabel, values: values(xScale) }, { ...axis, label: yLabel, size: 70, values: values(yScale) }],
      series,
      bands,
      cursor: { drag: { x: true, y: true, uni: 40 } },
      hooks: { draw: [(plot) => this.drawReferences(plot)] },
    };
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
    const taken = []; // where labels are: another one that would cover one of them is left out
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
    const width = scale.max - scale.min;
    const moves = { "+": [0.2, -0.2], "-": [-0.3, 0.3], ArrowLeft: [-0.15, -0.15], ArrowRight: [0.15, 0.15] };
    if (event.key === "0") this.plot.setData(this.plot.data);
    else if (moves[event.key] && this.content.xScale === "linear") {
      const [left, right] = moves[event.key];
      this.plot.setScale("x", { min: scale.min + left * width, max: scale.max + right * width });
    } else return;
    event.preventDefault();
  }
}

export function zoomHelp() {
  return element("p", { class: "muted" },
    "Drag to zoom, double-click to show everything. With the keyboard: + and − zoom, ← and → move, 0 shows everything.");
}

// A chart of a panel as figures, series and sweeps describe it.
export function panelChart(panel) {
  const chart = new Chart({ label: `${panel.title}: ${panel.y_label} against ${panel.x_label}` });
  const lines = panel.curves.filter((curve) => !["horizontal", "vertical"].includes(curve.style));
  const reference = (style, values) => panel.curves.filter((curve) => curve.style === style)
    .flatMap((curve) => values(curve).map((value) => ({ value, label: curve.label })));
  chart.draw({
    curves: lines, xLabel: panel.x_label, yLabel: panel.y_label, xScale: panel.x_scale, yScale: panel.y_scale,
    yLimits: panel.y_limits ?? undefined,
    vertical: reference("vertical", (curve) => curve.x), horizontal: reference("horizontal", (curve) => curve.y),
  });
  return element("section", {}, element("h3", {}, panel.title), chart.node);
}
