"""Plots of figures of the sources, of series along a training run, and of sweeps over a grid."""

from collections.abc import Sequence
from typing import Any

from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.experiments.series import SeriesEntry, SeriesResult
from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.api_schemas.figures.results import Cell, Curve, Panel
from hessian_spectrum.results.plots.figure import Drawing
from hessian_spectrum.results.plots.panels import plot_panels

_MAX_GROUPS = 8
_LINEAR_RANGE = 10
"""Ratio of positive values above which the horizontal axis is logarithmic."""
_ENDS = ("largest", "smallest", "trace")
_NUMBERS = ("largest", "smallest", "trace", "eigenvalue_0", "loss")
_LABELS = {"largest": "largest eigenvalue", "smallest": "smallest eigenvalue", "trace": "trace", "loss": "loss"}


def _plot_figure(result: FigureResult) -> Drawing:
    return plot_panels(result.panels, f"{result.title}\n{result.source}, at {result.scale} scale")


def _plot_series(result: SeriesResult) -> Drawing:
    """Plot sharpness with 2 / learning rate, smallest eigenvalue, trace, loss and overlaps against the step."""
    points = [point for point in result.points if point.problem is None]
    given = [field for field in _ENDS if any(getattr(point, field, None) is not None for point in points)]
    panels = [_eigenvalue_panel(field, points) for field in given]
    panels.append(_panel("loss", [_curve("loss", [(point.step, getattr(point, "loss", None)) for point in points])]))
    if any(point.overlaps for point in points):
        panels.append(_overlap_panel(points))
    if density := _density_panel(points):
        panels.append(density)
    return plot_panels(panels, f"{result.name}: {result.matrix} along training")


def _eigenvalue_panel(field: str, points: Sequence[SeriesEntry]) -> Panel:
    known = [point for point in points if getattr(point, field) is not None]
    numbers = [getattr(point, field) for point in known]
    curve = Curve(
        label=_LABELS[field],
        x=[point.step for point in known],
        y=[number.value for number in numbers],
        lower=[number.lower for number in numbers],
        upper=[number.upper for number in numbers],
    )
    curves = [curve]
    if field == "largest":
        thresholds = [(point.step, point.stability_threshold) for point in known if point.stability_threshold]
        if thresholds:
            curves.append(_curve("2 / learning rate", thresholds, style="dashed"))
    return _panel(_LABELS[field], curves)


def _overlap_panel(points: Sequence[SeriesEntry]) -> Panel:
    sizes = sorted({space.size for point in points if point.overlaps for space in point.overlaps.spaces})
    curves = []
    for size in [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes:
        spaces = [(p.step, s) for p in points if p.overlaps for s in p.overlaps.spaces if s.size == size]
        curves.append(
            Curve(
                label="leading eigenvector" if size == 1 else f"{size} leading eigenvectors",
                x=[step for step, _ in spaces],
                y=[space.value for _, space in spaces],
                lower=[space.lower for _, space in spaces],
                upper=[space.upper for _, space in spaces],
            )
        )
    return _panel("overlap with the step before", curves)


def _density_panel(points: Sequence[SeriesEntry]) -> Panel | None:
    """Return the densities at five steps from the first to the last, if the method gives them."""
    known = [point for point in points if getattr(point, "density", None) is not None]
    if not known:
        return None
    chosen = {round(index * (len(known) - 1) / 4) for index in range(5)}
    curves = [
        Curve(label=f"step {point.step}", x=density.grid, y=list(density.values), style="line")
        for point in (known[index] for index in sorted(chosen))
        if (density := getattr(point, "density", None)) is not None
    ]
    return Panel(title="", x_label="eigenvalue", y_label="density", y_scale="log", curves=curves)


def _panel(label: str, curves: list[Curve]) -> Panel:
    return Panel(title="", x_label="step", y_label=label, curves=curves)


def _curve(label: str, points: Sequence[tuple[float, float | None]], style: Any = "line-markers") -> Curve:
    return Curve(label=label, x=[x for x, _ in points], y=[y for _, y in points], style=style)


def _plot_sweep(result: SweepResult) -> Drawing:
    """Plot each number against one varied field, with a curve for each value of the others."""
    columns = result.columns
    across = max(result.over, key=lambda field: _suits_an_axis(field, columns[field]))
    groups: dict[str, list[int]] = {}
    for row in range(len(columns[across])):
        others = [f"{field} = {columns[field][row]}" for field in result.over if field != across]
        groups.setdefault(", ".join(others), []).append(row)
    if len(groups) > _MAX_GROUPS:
        groups = {"": list(range(len(columns[across])))}
    numeric = _is_numeric(columns[across])
    positions = columns[across] if numeric else range(len(columns[across]))
    panels = [
        Panel(
            title="",
            x_label=across if numeric else "point",
            x_scale="log" if numeric and _spans_decades(columns[across]) else "linear",
            y_label=_LABELS.get(field, field),
            curves=[_sweep_curve(columns, field, positions, label, rows) for label, rows in groups.items()],
        )
        for field in _NUMBERS
        if field in columns
    ]
    return plot_panels(panels, f"{len(columns[across]):,} points over {', '.join(result.over)}")


def _sweep_curve(columns: dict[str, list[Cell]], field: str, positions: Any, label: str, rows: Sequence[int]) -> Curve:
    rows = sorted((row for row in rows if columns[field][row] is not None), key=lambda row: positions[row])
    ends: dict[str, Any] = {
        end: [columns[f"{field}_{end}"][row] for row in rows]
        for end in ("lower", "upper")
        if f"{field}_{end}" in columns
    }
    distinct = len({positions[row] for row in rows}) == len(rows)
    values: Any = [columns[field][row] for row in rows]
    return Curve(
        label=label,
        x=[positions[row] for row in rows],
        y=values,
        style="line-markers" if distinct else "markers",
        **ends,
    )


def _spans_decades(values: Sequence[Any]) -> bool:
    return bool(min(values) > 0 and max(values) > _LINEAR_RANGE * min(values))


def _suits_an_axis(field: str, values: Sequence[Cell]) -> tuple[bool, bool, int]:
    """Rank fields for the horizontal axis: numbers that mean something, of which there are many."""
    return _is_numeric(values), not field.endswith("seed"), len(set(map(str, values)))


def _is_numeric(values: Sequence[Cell]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


EXPERIMENT_PLOTS = {"figure": _plot_figure, "series": _plot_series, "sweep": _plot_sweep}
