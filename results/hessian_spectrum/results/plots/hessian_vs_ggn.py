"""Plot of a comparison of Hessian and GGN: the four relations of Cracking the Hessian, figures 5 and 23 to 25."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    HessianVsGgnResult,
    MeanCurve,
    ModelComparison,
)
from hessian_spectrum.results.plots.figure import BLUE, GREEN, PURPLE, RED, Drawing, colour_scale, columns_that_fit

_COLOURS = (BLUE, RED, GREEN, PURPLE)
_MAX_LABELS = 12
_LABEL_INCHES = 3.5
_LINEAR_RANGE = 10
"""Ratio of positive values above which the axis is logarithmic."""
_LINEAR_STEPS = 20  # ratio of the last step to the first one after 0, likewise
_MANY_POINTS = 60  # points of a run above which markers are small

_ERROR = "relative error of the top eigenvalue\n|Hessian − GGN| / |Hessian|"
_LOSS = "loss (nats per token)"
_RESIDUAL = "mean residual norm"

Quantity = Callable[[ComparisonPoint], float | None]


def plot_hessian_vs_ggn(result: HessianVsGgnResult) -> Drawing:
    """Plot the relative error against residual, loss and step, and the loss against the step.

    Lines are means over seeds, bands are their standard errors, and dots are single points, hollow where an eigenvalue
    has not converged. Without training the models stand in place of the steps.

    Args:
        result: The result of a `hessian-vs-ggn` job.

    Returns:
        The picture.
    """
    trained = result.curves[0].loss is not None

    def draw(figure: Figure) -> str:
        panels = figure.subplots(2, 2)
        for index, (curve, colour) in enumerate(zip(result.curves, _colours(len(result.curves)), strict=True)):
            position = _step if trained else partial(_number, index + 1)
            for axes, across, up, mean in (
                (panels[0, 0], _residual, _error, curve.against_residual),
                (panels[0, 1], _loss, _error, curve.against_loss),
                (panels[1, 0], position, _error, curve.relative_error),
                (panels[1, 1], position, _loss, curve.loss),
            ):
                _draw(axes, curve, of=(across, up), mean=mean, colour=colour)
        _scale(panels, result, trained=trained)
        if len(result.curves) <= _MAX_LABELS:
            handles, labels = panels[1, 1].get_legend_handles_labels()
            columns = columns_that_fit(figure, min(2, len(labels)), _LABEL_INCHES)
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")
        return _title(result, trained=trained)

    return Drawing(draw, (10, 7.5))


def _draw(
    axes: Any, curve: ModelComparison, *, of: tuple[Quantity, Quantity], mean: MeanCurve | None, colour: Any
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
    errors = [error for point in points if (error := _error(point))]  # a logarithmic axis has no place for 0
    for axes in (panels[0, 0], panels[0, 1], panels[1, 0]):
        axes.set_ylabel(_ERROR)
        _scale_errors(axes, errors)
    panels[1, 1].set_ylabel(_LOSS)
    panels[0, 0].set_xlabel(_RESIDUAL + r" $\|\mathrm{softmax}(z) - e_y\|$")
    panels[0, 1].set_xlabel(_LOSS)
    for axes in panels[0]:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[1]:
        axes.set_xlabel("training step" if trained else "model")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        steps = [point.step for point in points if point.step]
        if steps and max(steps) > _LINEAR_STEPS * min(steps):
            axes.set_xscale("symlog", linthresh=min(steps))
            axes.set_xlim(0, 1.1 * max(steps))
    for axes in panels.flat:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)


def _scale_errors(axes: Any, errors: Sequence[float]) -> None:
    if errors and max(errors) > _LINEAR_RANGE * min(errors):
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(min(errors) / 1.5, 1.5 * max(errors))
        if max(errors) > 100 * min(errors):
            axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * max(errors, default=1.0))


def _colours(count: int) -> Sequence[Any]:
    if count <= len(_COLOURS):
        return _COLOURS[:count]
    return colour_scale(count)


def _title(result: HessianVsGgnResult, *, trained: bool) -> str:
    runs, points = result.curves[0].runs, [p for curve in result.curves for run in curve.runs for p in run.points]
    seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    if trained and len(runs) > 1:
        seeds = f"mean and standard error of {seeds}"
    parts = [
        seeds,
        f"{result.num_sequences:,} sequences of {result.sequence_length:,} tokens a point",
        f"{result.provenance.num_products:,} {result.provenance.precision} products",
    ]
    if not all(point.hessian.converged and point.ggn.converged for point in points):
        parts.append("hollow: not converged")
    return "Top eigenvalue of the Gauss-Newton matrix in place of the Hessian's\n" + ", ".join(parts)


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


EXPERIMENT_PLOTS = {"hessian-vs-ggn": plot_hessian_vs_ggn}
