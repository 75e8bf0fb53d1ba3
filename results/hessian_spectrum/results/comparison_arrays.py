"""The arrays of a comparison of Hessian and GGN under the names that npz gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import ComparisonPoint, HessianVsGgnResult, ModelComparison

_QUANTITIES: dict[str, Callable[[ComparisonPoint], float | str]] = {
    "loss": lambda point: point.loss,
    "mean_residual_norm": lambda point: point.mean_residual_norm,
    "hessian": lambda point: point.hessian.value,
    "hessian_residual": lambda point: point.hessian.residual,
    "hessian_lower": lambda point: _number(point.hessian.lower),
    "hessian_upper": lambda point: _number(point.hessian.upper),
    "hessian_converged": lambda point: point.hessian.converged,
    "hessian_why": lambda point: point.hessian.why or "",
    "ggn": lambda point: point.ggn.value,
    "ggn_residual": lambda point: point.ggn.residual,
    "ggn_lower": lambda point: _number(point.ggn.lower),
    "ggn_upper": lambda point: _number(point.ggn.upper),
    "ggn_converged": lambda point: point.ggn.converged,
    "ggn_why": lambda point: point.ggn.why or "",
    "relative_error": lambda point: np.nan if point.relative_error is None else point.relative_error.value,
    "relative_error_uncertainty": lambda point: (
        np.nan if point.relative_error is None else point.relative_error.uncertainty
    ),
}
_CURVES = {
    "mean_loss": "loss",
    "mean_relative_error": "relative_error",
    "against_residual": "against_residual",
    "against_loss": "against_loss",
}


def _number(end: float | None) -> float:
    """Return the end of an interval; NaN if it is not known."""
    return np.nan if end is None else end


def comparison_arrays(result: HessianVsGgnResult) -> dict[str, NDArray[Any]]:
    """Convert a comparison of Hessian and GGN to arrays that say everything that its JSON document says.

    Args:
        result: The comparison.

    Returns:
        For each model i: steps_i (num_points,), learning_rates_i (num_points,) if it was trained, and each quantity of
        a point `<name>_i` (num_seeds, num_points), NaN where there is none; for the curves mean_loss,
        mean_relative_error, against_residual and against_loss, where they exist, `<curve>_i_grid`, `_mean` and
        `_standard_error`.
    """
    lists: Any = {"runs": {"__all__": {"points"}}, **dict.fromkeys(_CURVES.values(), True)}
    document = result.model_dump_json(exclude={"curves": {"__all__": lists}})
    arrays: dict[str, NDArray[Any]] = {"document": np.asarray(document)}
    for index, curve in enumerate(result.curves):
        arrays |= _model_arrays(curve, index)
    return arrays


def _model_arrays(curve: ModelComparison, index: int) -> dict[str, NDArray[Any]]:
    points = curve.runs[0].points
    arrays: dict[str, NDArray[Any]] = {f"steps_{index}": np.asarray([point.step for point in points])}
    if points[0].learning_rate is not None:
        arrays[f"learning_rates_{index}"] = np.asarray([point.learning_rate for point in points])
    for name, quantity in _QUANTITIES.items():
        arrays[f"{name}_{index}"] = np.asarray([[quantity(point) for point in run.points] for run in curve.runs])
    for name, field in _CURVES.items():
        mean = getattr(curve, field)
        if mean is None:
            continue
        parts = {"grid": mean.grid, "mean": mean.mean, "standard_error": mean.standard_error}
        arrays |= {f"{name}_{index}_{part}": np.asarray(v) for part, v in parts.items() if v is not None}
    return arrays
