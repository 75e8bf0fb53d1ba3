"""The arrays of a result under the names that npz gives them; none needs pickle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.jobs import AnyJobResult
from hessian_spectrum.api_schemas.spectrum_results import (
    AnySpectrumResult,
    Cumulative,
    Density,
    Estimate,
    ExactResult,
    LanczosResult,
    SpectrumSetResult,
    TopKResult,
)
from hessian_spectrum.serialization.hessian_vs_ggn_arrays import comparison_arrays

Arrays = dict[str, NDArray[Any]]

_LISTS: Any = {
    **dict.fromkeys(("eigenvalues", "density", "log_density", "cumulative", "quadrature"), True),
    "eigenpairs": {"__all__": {"value", "residual", "converged", "lower", "upper"}},
}
"""Fields that become arrays; all others are the member `document`, as JSON."""


def result_arrays(result: AnyJobResult) -> Arrays:
    """Everything that the JSON document says.

    exact: eigenvalues (P,). lanczos: for density, log_density and cumulative `<name>_grid`, `<name>_values`,
    `<name>_standard_error`, `<name>_lower` and `<name>_upper` (num_points,); for each probe i nodes_i, weights_i and
    residuals_i, and for all node_errors (num_probes,); largest and smallest [value, residual]. top-k: eigenvalues,
    residuals, converged, lower and upper (k,). Where there is one also trace and frobenius, [value, standard error],
    and trace_interval and frobenius_interval, [lower, upper]. NaN stands for what is not known. Of several spectra i
    each name, the document's too, with `spectrum_<i>_` before it. Of a comparison see `comparison_arrays`.
    """
    match result:
        case HessianVsGgnResult():
            return comparison_arrays(result)
        case SpectrumSetResult(spectra=spectra):
            return {
                f"spectrum_{index}_{name}": array
                for index, spectrum in enumerate(spectra)
                for name, array in result_arrays(spectrum).items()
            }
        case _:
            return _spectrum_arrays(result)


def _spectrum_arrays(result: AnySpectrumResult) -> Arrays:
    arrays: Arrays = {"document": np.asarray(result.model_dump_json(exclude=_LISTS))}
    match result:
        case ExactResult():
            arrays["eigenvalues"] = np.asarray(result.eigenvalues)
        case LanczosResult():
            arrays |= _lanczos_arrays(result)
        case TopKResult():
            arrays["eigenvalues"] = np.asarray([pair.value for pair in result.eigenpairs])
            arrays["residuals"] = np.asarray([pair.residual for pair in result.eigenpairs])
            arrays["converged"] = np.asarray([pair.converged for pair in result.eigenpairs])
            for end in ("lower", "upper"):
                arrays[end] = np.asarray([getattr(pair, end) for pair in result.eigenpairs], dtype=np.float64)
            return arrays
    arrays |= _estimate_arrays("trace", result.trace)
    if not isinstance(result, ExactResult):
        arrays |= _estimate_arrays("frobenius", result.frobenius)
    return arrays


def _estimate_arrays(name: str, estimate: Estimate) -> Arrays:
    pairs = {name: (estimate.value, estimate.standard_error), f"{name}_interval": (estimate.lower, estimate.upper)}
    return {key: np.asarray([np.nan if each is None else each for each in pair]) for key, pair in pairs.items()}


def _lanczos_arrays(result: LanczosResult) -> Arrays:
    arrays: Arrays = {"node_errors": np.asarray([rule.node_error for rule in result.quadrature])}
    for name in ("density", "log_density", "cumulative"):
        arrays |= {f"{name}_{part}": values for part, values in _curve_arrays(getattr(result, name)).items()}
    for probe, rule in enumerate(result.quadrature):
        arrays |= {f"nodes_{probe}": np.asarray(rule.nodes), f"weights_{probe}": np.asarray(rule.weights)}
        if rule.residuals is not None:
            arrays[f"residuals_{probe}"] = np.asarray(rule.residuals)
    for name, ritz in (("largest", result.largest), ("smallest", result.smallest)):
        arrays[name] = np.asarray([ritz.value, ritz.residual])
    return arrays


def _curve_arrays(curve: Density | Cumulative) -> Arrays:
    parts = {name: getattr(curve, name) for name in ("grid", "values", "standard_error")}
    parts |= {"lower": curve.band.lower, "upper": curve.band.upper}
    return {name: np.asarray(numbers) for name, numbers in parts.items()}
