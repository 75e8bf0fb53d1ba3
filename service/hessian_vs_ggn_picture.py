"""A comparison of Hessian and GGN as a picture: the four relations of Cracking the Hessian, figures 5 and 23 to 25."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from api_schemas.hessian_vs_ggn_results import ComparisonPoint, HessianVsGgnResult, MeanCurve, ModelComparison
from service.representations import DRAWING

_COLOURS = ("#1f5fa8", "#c8452f", "#2a9d5c", "#7a4fa3")
_MAX_LABELS = 12
_LINEAR_RANGE = 10
"""Positive values that differ by more than this factor need a logarithmic axis to be told apart."""
_LINEAR_STEPS = 50  # likewise of the last step and the first after 0
_MANY_POINTS = 60  # of a run, from which on they are drawn small

_ERROR = "relative error of the top eigenvalue\n|Hessian − GGN| / |Hessian|"
_LOSS = "loss (nats per token)"
_RESIDUAL = "mean residual norm"

Quantity = Callable[[ComparisonPoint], float | None]


def draw_comparison(result: HessianVsGgnResult, name: str) -> bytes:
    """Relative error against residual, loss and step, and loss against step; `name` is png or svg.

    Lines are means over seeds, bands their standard error, dots the points themselves, hollow where an eigenvalue has
    not converged. Where nothing was trained models stand in place of steps.
    """
    trained = result.curves[0].loss is not None
    with DRAWING:
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        panels = figure.subplots(2, 2)
        for index, (curve, colour) in enumerate(zip(result.curves, _colours(len(result.curves)), strict=True)):
            place = _step if trained else partial(_number, index + 1)
            for axes, across, up, mean in (
                (panels[0, 0], _residual, _error, curve.against_residual),
                (panels[0, 1], _loss, _error, curve.against_loss),
                (panels[1, 0], place, _error, curve.relative_error),
                (panels[1, 1], place, _loss, curve.loss),
            ):
                _draw(axes, curve, (across, up), mean, colour)
        _scale(panels, result, trained=trained)
        if len(result.curves) <= _MAX_LABELS:
            handles, labels = panels[1, 1].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(labels)), fontsize="small")
        figure.suptitle(_title(result), fontsize="medium")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=name, dpi=150, metadata={"Date": None} if name == "svg" else None)
        return buffer.getvalue()


def _draw(
    axes: Any, curve: ModelComparison, of: tuple[Quantity, Quantity], mean: MeanCurve | None, colour: Any
) -> None:
    label = f"{curve.label.replace('$', chr(92) + '$')}: {curve.num_parameters:,} parameters"
    if mean is not None:
        grid, middle = np.asarray(mean.grid), np.asarray(mean.mean)
        axes.plot(grid, middle, color=colour, linewidth=1.6, label=label, zorder=3)
        if mean.standard_error is not None:
            error = np.asarray(mean.standard_error)
            axes.fill_between(grid, middle - error, middle + error, color=colour, alpha=0.22, linewidth=0)
        label = "_"  # matplotlib's legend leaves it out
    points = [point for run in curve.runs for point in run.points]
    size = 2.0 if len(curve.runs[0].points) > _MANY_POINTS else 3.5
    style = {"linestyle": "", "marker": "o", "color": colour, "markersize": size, "alpha": 0.45 if mean else 1.0}
    for converged, fill in ((True, colour), (False, "white")):
        chosen = [p for p in points if (p.hessian.converged and p.ggn.converged) == converged]
        pairs = [(x, y) for p in chosen if (x := of[0](p)) is not None and (y := of[1](p)) is not None]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), markerfacecolor=fill, label=label, **style)
            label = "_"


def _scale(panels: Any, result: HessianVsGgnResult, *, trained: bool) -> None:
    points = [point for curve in result.curves for run in curve.runs for point in run.points]
    errors = [error for point in points if (error := _error(point))]
    for axes in (panels[0, 0], panels[0, 1], panels[1, 0]):
        axes.set_ylabel(_ERROR)
        _logarithmic(axes.yaxis, errors)
    panels[1, 1].set_ylabel(_LOSS)
    panels[0, 0].set_xlabel(_RESIDUAL + r" $\|\mathrm{softmax}(z) - e_y\|$")
    panels[0, 1].set_xlabel(_LOSS)
    for axes in panels[1]:
        axes.set_xlabel("training step" if trained else "model")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        steps = [point.step for point in points if point.step]
        if steps and max(steps) > _LINEAR_STEPS * min(steps):
            axes.set_xscale("symlog", linthresh=min(steps))
            axes.set_xlim(0, 1.1 * max(steps))
    for axes, title in zip(
        panels.flat,
        ("error against residual", "error against loss", *_over("step" if trained else "model")),
        strict=True,
    ):
        axes.set_title(title, fontsize="small", loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)


def _over(place: str) -> tuple[str, str]:
    return f"error by {place}", f"loss by {place}"


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """Make the axis logarithmic where the values need it."""
    if len(values) and max(values) > _LINEAR_RANGE * min(values):
        axis.axes.set_yscale("log", nonpositive="clip")
        axis.axes.set_ylim(min(values) / 1.5, 1.5 * max(values))
        if max(values) > 100 * min(values):
            axis.set_minor_formatter(NullFormatter())
    else:
        axis.axes.set_ylim(bottom=0)


def _colours(count: int) -> Sequence[Any]:
    if count <= len(_COLOURS):
        return _COLOURS[:count]
    return [tuple(colour) for colour in colormaps["viridis"](np.linspace(0, 0.9, count))]


def _title(result: HessianVsGgnResult) -> str:
    seeds = len(result.curves[0].runs)
    runs = "one seed" if seeds == 1 else f"mean and standard error of {seeds} seeds"
    products = f"{result.provenance.num_products:,} {result.provenance.precision} products"
    sequences = f"{result.num_sequences:,} sequences of {result.sequence_length:,} tokens a point"
    return f"Top eigenvalue of the GGN for that of the Hessian: {runs}, {sequences}, {products}"


def _number(number: int, _: ComparisonPoint) -> float:
    return number


def _step(point: ComparisonPoint) -> float:
    return point.step


def _loss(point: ComparisonPoint) -> float:
    return point.loss


def _residual(point: ComparisonPoint) -> float:
    return point.mean_residual_norm


def _error(point: ComparisonPoint) -> float | None:
    return None if point.relative_error is None else point.relative_error.value
