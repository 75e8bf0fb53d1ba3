"""The arrays of a result under the names that npz gives them; none needs pickle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.experiments import ExperimentResult
from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.experiments.series import SeriesResult
from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.jobs import AnyJobResult, SpectrumSetResult
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.api_schemas.spectrum_results import (
    Cumulative,
    Density,
    Eigenpair,
    Estimate,
    MethodResult,
    Quadrature,
    RitzValue,
)
from hessian_spectrum.results.comparison_arrays import comparison_arrays
from hessian_spectrum.results.tables import result_table

Arrays = dict[str, NDArray[Any]]

_PAIRS = ("value", "residual", "converged", "lower", "upper")
"""Fields of eigenpairs that become arrays."""


def result_arrays(result: AnyJobResult) -> Arrays:
    """Convert a result to arrays that say everything that its JSON document says.

    Args:
        result: The result.

    Returns:
        The members of an npz archive by name. Of the fields of a spectrum or of an experiment, lists of numbers become
        arrays of the same name (n,). Each curve becomes `<name>_grid`, `<name>_values`, `<name>_standard_error`,
        `<name>_lower` and `<name>_upper` (num_points,). Quadratures become nodes_i, weights_i and residuals_i for each
        probe i, and node_errors (num_probes,). Eigenpairs become eigenvalues, residuals, converged, lower and upper
        (k,). A Ritz value becomes [value, residual], an estimate [value, standard error] and `<name>_interval`,
        [lower, upper]. All other fields are the member `document`, as JSON. NaN stands for what is not known. Of
        several spectra i each name, the document's too, is preceded by `spectrum_<i>_`. The table of a sweep, a series
        or a figure becomes one array for each column of numbers, and the curves of a figure `panel_<i>_curve_<j>_x`,
        `_y`, `_lower` and `_upper`. For a comparison see `comparison_arrays`.
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
        case FigureResult() | SeriesResult() | SweepResult():
            return _experiment_arrays(result)
        case ExperimentResult():
            return _message_arrays(result, ExperimentResult)
        case _:
            return _message_arrays(result, MethodResult)


def _experiment_arrays(result: FigureResult | SeriesResult | SweepResult) -> Arrays:
    arrays: Arrays = {"document": np.asarray(result.model_dump_json())}
    for name, column in result_table(result).items():
        if all(value is None or isinstance(value, bool | int | float) for value in column):
            arrays[name] = np.asarray([np.nan if value is None else value for value in column])
        else:
            arrays[name] = np.asarray(["" if value is None else str(value) for value in column])
    for index, panel in enumerate(result.panels if isinstance(result, FigureResult) else []):
        for number, curve in enumerate(panel.curves):
            lines = {"x": curve.x, "y": curve.y, "lower": curve.lower, "upper": curve.upper}
            for name, values in lines.items():
                if values:
                    arrays[f"panel_{index}_curve_{number}_{name}"] = np.asarray(values, dtype=np.float64)
    return arrays


def _message_arrays(result: AnySpectrumResult | ExperimentResult, base: type[Message]) -> Arrays:
    """Return the arrays of all fields except those of the base class, and the document."""
    arrays: Arrays = {}
    beside: dict[str, Any] = {}  # fields that the document leaves out
    for name in [each for each in type(result).model_fields if each not in base.model_fields]:
        match getattr(result, name):
            case Estimate() as estimate:
                arrays |= _estimate_arrays(name, estimate)
            case RitzValue() as ritz:
                arrays[name] = np.asarray([ritz.value, ritz.residual])
            case Density() | Cumulative() as curve:
                beside[name] = True
                arrays |= {f"{name}_{part}": values for part, values in _curve_arrays(curve).items()}
            case [Quadrature(), *_] as rules:
                beside[name] = True
                arrays |= _quadrature_arrays(rules)
            case [Eigenpair(), *_] as pairs:
                beside[name] = {"__all__": set(_PAIRS)}
                arrays |= _pair_arrays(pairs)
            case [int() | float(), *_] as numbers:
                beside[name] = True
                arrays[name] = np.asarray(numbers)
    return {"document": np.asarray(result.model_dump_json(exclude=beside)), **arrays}


def _estimate_arrays(name: str, estimate: Estimate) -> Arrays:
    pairs = {name: (estimate.value, estimate.standard_error), f"{name}_interval": (estimate.lower, estimate.upper)}
    return {key: np.asarray([np.nan if each is None else each for each in pair]) for key, pair in pairs.items()}


def _quadrature_arrays(rules: list[Quadrature]) -> Arrays:
    arrays: Arrays = {"node_errors": np.asarray([rule.node_error for rule in rules])}
    for probe, rule in enumerate(rules):
        arrays |= {f"nodes_{probe}": np.asarray(rule.nodes), f"weights_{probe}": np.asarray(rule.weights)}
        if rule.residuals is not None:
            arrays[f"residuals_{probe}"] = np.asarray(rule.residuals)
    return arrays


def _pair_arrays(pairs: list[Eigenpair]) -> Arrays:
    names = {"value": "eigenvalues", "residual": "residuals"}
    arrays = {names.get(each, each): np.asarray([getattr(pair, each) for pair in pairs]) for each in _PAIRS}
    return arrays | {end: arrays[end].astype(np.float64) for end in ("lower", "upper")}


def _curve_arrays(curve: Density | Cumulative) -> Arrays:
    parts = {name: getattr(curve, name) for name in ("grid", "values", "standard_error")}
    parts |= {"lower": curve.band.lower, "upper": curve.band.upper}
    return {name: np.asarray(numbers) for name, numbers in parts.items()}
