"""Conversion of measured points to the curves of a comparison."""

from collections.abc import Callable, Sequence
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    MeanCurve,
    ModelComparison,
    RelativeError,
    TopEigenvalue,
)
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.spectrum_results import UsedCheckpoint

NUM_GRID_POINTS = 100  # points of an interpolated curve


def relative_error(hessian: TopEigenvalue, ggn: TopEigenvalue) -> RelativeError | None:
    """Return the relative error |h - g| / |h| of the largest eigenvalues.

    For exact values within r of h and s of g the quotient g/h is off by at most (s + |g/h| r) / (|h| - r).

    Args:
        hessian: Largest eigenvalue h of the Hessian.
        ggn: Largest eigenvalue g of the Gauss-Newton matrix.

    Returns:
        The error with its uncertainty; None if h may be 0, or is so small that the quotient overflows.
    """
    own, other = _uncertainty(hessian), _uncertainty(ggn)
    least = abs(hessian.value) - own
    if not least > 0:
        return None
    ratio = ggn.value / hessian.value
    uncertainty = (other + abs(ratio) * own) / least
    if not (isfinite(ratio) and isfinite(uncertainty)):
        return None
    return RelativeError(value=abs(1 - ratio), uncertainty=uncertainty)


def _uncertainty(top: TopEigenvalue) -> float:
    """Return a bound on the error of the largest eigenvalue; a residual only bounds that of the nearest eigenvalue."""
    if top.lower is None or top.upper is None:
        return inf
    return max(top.upper - top.value, top.value - top.lower)


def model_comparison(
    label: str,
    num_parameters: int,
    runs: list[ComparisonRun],
    *,
    with_curves: bool,
    checkpoint: UsedCheckpoint | None = None,
) -> ModelComparison:
    """Return the runs of one model and, with `with_curves`, their means over seeds."""
    paths = [run.points for run in runs]
    return ModelComparison(
        label=label,
        num_parameters=num_parameters,
        checkpoint=checkpoint,
        runs=runs,
        loss=_by_step(paths, lambda point: point.loss) if with_curves else None,
        relative_error=_by_step(paths, _error) if with_curves else None,
        against_residual=_against(paths, lambda point: point.mean_residual_norm) if with_curves else None,
        against_loss=_against(paths, lambda point: point.loss) if with_curves else None,
    )


def labels_of(request: HessianVsGgnRequest) -> list[str]:
    """Return the labels of the request or, without them, the models' sizes, numbered where they coincide."""
    if request.labels is not None:
        return request.labels
    names = [_name(model) for model in request.models]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _name(model: Gpt2) -> str:
    return f"GPT-2{'' if model.attention else ' without attention'}, {model.n_layer} layers of width {model.n_embd}"


def _error(point: ComparisonPoint) -> float | None:
    return None if point.relative_error is None else point.relative_error.value


def _by_step(
    paths: Sequence[Sequence[ComparisonPoint]], quantity: Callable[[ComparisonPoint], float | None]
) -> MeanCurve | None:
    """Return the mean over seeds at each step at which all of them have the quantity."""
    together = [(points[0].step, [quantity(point) for point in points]) for points in zip(*paths, strict=True)]
    known = [(step, values) for step, values in together if None not in values]
    if not known:
        return None
    grid = np.asarray([step for step, _ in known], dtype=np.float64)
    return _mean_curve(grid, np.asarray([values for _, values in known], dtype=np.float64).T)


def _against(
    paths: Sequence[Sequence[ComparisonPoint]], quantity: Callable[[ComparisonPoint], float]
) -> MeanCurve | None:
    """Average relative errors over seeds as a function of a quantity, after interpolating each curve to one grid.

    Args:
        paths: Points of each seed, in order.
        quantity: Quantity across.

    Returns:
        The mean curve; None where the seeds have no range in common.

    References:
        Cracking the Hessian, appendix D.1.5.
    """
    curves = [_ordered([(quantity(p), e) for p in points if (e := _error(p)) is not None]) for points in paths]
    if not all(len(places) for places, _ in curves):
        return None
    first, last = max(places[0] for places, _ in curves), min(places[-1] for places, _ in curves)
    if not first < last:
        return None
    grid = np.linspace(first, last, NUM_GRID_POINTS)
    return _mean_curve(grid, np.stack([np.interp(grid, *curve) for curve in curves]))


def _ordered(pairs: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distinct places in ascending order, and the mean of the values at each."""
    places, where = np.unique([place for place, _ in pairs], return_inverse=True)
    sums = np.bincount(where, [value for _, value in pairs], minlength=len(places))
    return places, sums / np.bincount(where, minlength=len(places))


def _mean_curve(grid: NDArray[np.float64], values: NDArray[np.float64]) -> MeanCurve:
    """Return the mean and its standard error over the seeds, for values (num_seeds, num_points)."""
    num_seeds = len(values)
    error = None if num_seeds == 1 else (values.std(axis=0, ddof=1) / sqrt(num_seeds)).tolist()
    return MeanCurve(grid=grid.tolist(), mean=values.mean(axis=0).tolist(), standard_error=error)
