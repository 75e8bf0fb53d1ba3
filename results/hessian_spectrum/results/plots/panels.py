"""Plot of panels: pairs of axes with curves, as figures of the sources, series and sweeps describe them."""

import math
from collections.abc import Sequence
from itertools import combinations, count
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from hessian_spectrum.api_schemas.figures.results import AxisScale, Curve, Panel
from hessian_spectrum.results.plots.figure import (
    BLUE,
    GREEN,
    PURPLE,
    RED,
    Drawing,
    balanced,
    colour_scale,
    columns_that_fit,
    decade_ticks,
)

_COLOURS = (BLUE, RED, GREEN, PURPLE, "#d98e04", "#5c5c5c", "#0f9aa8", "#b5488c")
_REFERENCE_COLOUR = "#444444"
_MAX_LABELS = 14
_LABEL_INCHES = 2.6
_PANEL_WIDTH, _PANEL_HEIGHT = 4.2, 3.3
_TITLE_CHARACTERS = 46
"""Most characters in a line of the title of a panel."""

_MAX_COLUMNS = 4
_MANY_POINTS = 40
"""Number of points of a curve above which its markers are small."""

_COINCIDENT = 0.01
"""Median distance of two curves, as a share of the height of the panel, below which one hides the other."""

_LINES = {"line": "-", "dashed": "--", "line-markers": "-", "markers": "", "step": "-", "bars": ""}


def plot_panels(panels: Sequence[Panel], title: str) -> Drawing:
    """Plot panels side by side, with one legend for the labels that they share.

    Args:
        panels: What to draw.
        title: Title above all panels.

    Returns:
        The picture.
    """
    num_columns = _num_columns(len(panels))
    num_rows = -(-len(panels) // num_columns)

    def draw(figure: Figure) -> str:
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        _add_legends(figure, list(grid.flat)[: len(panels)])
        return title

    width = max(_PANEL_WIDTH * num_columns, 5.5)
    return Drawing(draw, (width, _PANEL_HEIGHT * num_rows + 1.2))


def _num_columns(num_panels: int) -> int:
    """Return the number of columns with which the grid is filled best, no more than the largest one."""
    if num_panels <= _MAX_COLUMNS:
        return num_panels
    return min(range(2, _MAX_COLUMNS + 1), key=lambda columns: (-num_panels % columns, -columns))


def _draw_panel(axes: Any, panel: Panel) -> None:
    axes.set_title(balanced(panel.title, _TITLE_CHARACTERS), fontsize="medium")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    colours, zorders, styles = _colours_of(panel.curves), _zorders_of(panel.curves), _line_styles_of(panel)
    for curve, colour, zorder, style in zip(panel.curves, colours, zorders, styles, strict=True):
        _draw_curve(axes, curve, colour, zorder=2.0 if style == "--" else zorder, linestyle=style)
    xs = [x for curve in panel.curves for x in curve.x]
    ys = [y for curve in panel.curves for y in curve.y if y is not None]
    _set_scale(axes, "x", panel.x_scale, xs)
    _set_scale(axes, "y", panel.y_scale, ys)
    if panel.x_scale == "linear" and all(x.is_integer() for each in _data_curves(panel.curves) for x in each.x):
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    if panel.y_limits is not None:
        axes.set_ylim(*panel.y_limits)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _data_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves without reference lines."""
    return [each for each in curves if each.style not in ("horizontal", "vertical")]


def _zorders_of(curves: Sequence[Curve]) -> list[float]:
    """Return the order in which curves cover each other: those that oscillate most lie lowest, as they fill an area."""
    variations = [float(np.nansum(np.abs(np.diff(_numbers(each.y))))) for each in curves]
    ranks = np.argsort(np.argsort([-variation for variation in variations], kind="stable"))
    return [2 - (len(curves) - 1 - rank) / len(curves) / 10 for rank in ranks.tolist()]


def _line_styles_of(panel: Panel) -> list[str]:
    """Return the line styles; a line that would hide an earlier one is dashed, so that both are visible."""
    lines = [index for index, each in enumerate(panel.curves) if each.style == "line"]
    values = {index: _on_scale(panel.curves[index].y, panel.y_scale) for index in lines}
    finite = [each[np.isfinite(each)] for each in values.values()]
    height = float(np.ptp(np.concatenate(finite))) if any(map(len, finite)) else 0.0
    styles = [_LINES.get(each.style, "-") for each in panel.curves]
    for first, second in combinations(lines, 2):
        if panel.curves[first].x == panel.curves[second].x:
            distance = np.abs(values[first] - values[second])
            distance = distance[np.isfinite(distance)]
            if len(distance) and np.median(distance) < _COINCIDENT * height:
                styles[second] = "--"
    return styles


def _on_scale(values: Sequence[float | None], scale: AxisScale) -> Any:
    array = _numbers(values)
    return np.log10(np.where(array > 0, array, np.nan)) if scale == "log" else array


def _colours_of(curves: Sequence[Curve]) -> list[Any]:
    """Return a colour for each curve; curves of one group share theirs, and reference lines are grey."""
    new, chosen = count(), dict[Any, int]()
    keys = [("group", each.group) if each.group is not None else ("curve", index) for index, each in enumerate(curves)]
    is_reference = [each.style in ("horizontal", "vertical") and each.group is None for each in curves]
    for key, reference in zip(keys, is_reference, strict=True):
        if not reference and key not in chosen:
            chosen[key] = next(new)
    palette: Sequence[Any] = _COLOURS
    if len(chosen) > len(_COLOURS):
        palette = colour_scale(len(chosen))
    return [
        _REFERENCE_COLOUR if reference else palette[chosen[key]]
        for key, reference in zip(keys, is_reference, strict=True)
    ]


def _draw_curve(axes: Any, curve: Curve, colour: Any, *, zorder: float, linestyle: str) -> None:
    label = curve.label.replace("$", r"\$") if curve.label.count("$") % 2 else curve.label
    label = label or "_"  # matplotlib's legend leaves it out
    if curve.style == "horizontal":
        for value in curve.y:
            axes.axhline(value, color=colour, linestyle=":", linewidth=1.1, label=label)
            label = "_"
        return
    if curve.style == "vertical":
        for value in curve.x:
            axes.axvline(value, color=colour, linestyle=":", linewidth=1.1, label=label)
            label = "_"
        return
    x, y = np.asarray(curve.x, float), _numbers(curve.y)
    if curve.style == "bars":
        width = 0.8 * (float(np.min(np.diff(np.sort(x)))) if len(x) > 1 else 1.0)
        axes.bar(x, y, width=width, color=colour, alpha=0.7, label=label)
    else:
        marker = "o" if "markers" in curve.style else ""
        size = 2.0 if len(x) > _MANY_POINTS else 3.5
        drawstyle = "steps-mid" if curve.style == "step" else "default"
        options = {"linestyle": linestyle, "marker": marker, "markersize": size, "drawstyle": drawstyle}
        axes.plot(x, y, color=colour, linewidth=1.3, label=label, zorder=zorder, **options)
    if curve.lower is not None and curve.upper is not None:
        _draw_intervals(axes, curve, x, y, colour)


def _draw_intervals(axes: Any, curve: Curve, x: Any, y: Any, colour: Any) -> None:
    assert curve.lower is not None
    assert curve.upper is not None
    lower, upper = _numbers(curve.lower), _numbers(curve.upper)
    if curve.style in ("markers", "bars"):
        known = np.isfinite(lower) & np.isfinite(upper) & np.isfinite(y)
        spans = np.maximum(0, [y[known] - lower[known], upper[known] - y[known]])
        axes.errorbar(x[known], y[known], yerr=spans, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.7)
    else:
        axes.fill_between(x, lower, upper, color=colour, alpha=0.2, linewidth=0)


def _numbers(values: Sequence[float | None]) -> Any:
    return np.asarray([math.nan if value is None else value for value in values], float)


def _set_scale(axes: Any, name: Literal["x", "y"], scale: AxisScale, values: Sequence[float]) -> None:
    """Set the scale of an axis; a logarithmic one needs positive values, and a symmetric one a linear range."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes or scale == "linear":
        return
    if scale == "log" and any(value > 0 for value in values):
        getattr(axes, f"set_{name}scale")("log", nonpositive="mask")
    elif scale == "symlog":
        least = max(min(sizes), max(sizes) * 1e-6)
        getattr(axes, f"set_{name}scale")("symlog", linthresh=least)
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(FixedLocator(decade_ticks(least / 10**0.5, max(sizes))))
        axis.set_minor_locator(NullLocator())


def _add_legends(figure: Figure, panels: Sequence[Any]) -> None:
    """Add one legend for labels that all panels share, or a legend to each panel."""
    handles = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in panels]
    if all(each.keys() == handles[0].keys() for each in handles):
        labels = handles[0]
        if 0 < len(labels) <= _MAX_LABELS:
            columns = columns_that_fit(figure, min(4, len(labels)), _LABEL_INCHES)
            figure.legend(
                list(labels.values()), list(labels), loc="outside lower center", ncols=columns, fontsize="small"
            )
        return
    for axes, labels in zip(panels, handles, strict=True):
        if 0 < len(labels) <= _MAX_LABELS:
            axes.legend(fontsize="x-small")
