"""The curves of a Lanczos result with another smoothing, from its quadratures and without new products."""

from dataclasses import dataclass

import numpy as np

from hessian_spectrum.api_schemas.experiments import ExperimentResult
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.jobs import AnyJobResult, SpectrumSetResult
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.quadrature.curves import MOST_PLACES, Smoothing
from hessian_spectrum.quadrature.deflation import deflated_curves
from hessian_spectrum.quadrature.error_bands import MOST_PROBES_WITH_FURTHER_RULES
from hessian_spectrum.serialization.curves import curve_messages, deflation_from, quadrature_from
from hessian_spectrum.service.problems import invalid_query
from hessian_spectrum.service.request_parsing import chosen_options

MAX_OPERATIONS = 20_000_000_000
"""Largest number of operations for one request: a few seconds."""

_EXPONENTIAL = 60  # operations that take as long as an exponential and its sums
# Exponentials for each node and point: two for each of four rules and one for the value, in both densities; probes
# with further rules take two more for each of those. Each rule but the first is an eigenvalue problem.
_TABLES, _FURTHER_TABLES = 18, 2 * (2 * MOST_PLACES - 1)
_EIGENPROBLEMS, _FURTHER_EIGENPROBLEMS = 3, 2 * MOST_PLACES - 1
_EIGENPROBLEM = 10  # times the cube of the number of nodes
_DOUBLE_EPS, _SINGLE_EPS = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class SmoothingOverrides:
    """The smoothing parameters that a caller changes; None keeps the value of the job."""

    num_points: int | None = None
    kappa: float | None = None
    margin: float | None = None


def resmooth(result: AnyJobResult, overrides: SmoothingOverrides) -> AnyJobResult:
    """Return the result with the curves that the job would have made with the changed smoothing.

    Args:
        result: The result of a job.
        overrides: The parameters to change.

    Returns:
        The same result without any override, else a copy with new curves.

    Raises:
        ProblemError: 422 if the result has no curves, or if making them takes too long for a request.
    """
    if not chosen_options(overrides):
        return result
    match result:
        case LanczosResult():
            return _resmooth(result, overrides)
        case SpectrumSetResult(spectra=spectra) if all(isinstance(each, LanczosResult) for each in spectra):
            again = [_resmooth(each, overrides, len(spectra)) for each in spectra if isinstance(each, LanczosResult)]
            return result.model_copy(update={"spectra": again})
        case HessianVsGgnResult() | SpectrumSetResult() | ExperimentResult():
            what = f"kind {result.kind}"
        case _:
            what = f"method {result.method}"
    raise invalid_query(next(iter(chosen_options(overrides))), f"a result of {what} has no smoothed curves")


def _resmooth(result: LanczosResult, overrides: SmoothingOverrides, num_spectra: int = 1) -> LanczosResult:
    smoothing = result.smoothing.model_copy(update=chosen_options(overrides))
    _check_operations(result, smoothing.num_points, num_spectra)
    curves = deflated_curves(
        [quadrature_from(message) for message in result.quadrature],
        deflation_from(result.deflation),
        Smoothing(smoothing.num_points, smoothing.kappa, smoothing.margin),
        dim=result.num_parameters,
        num_steps=result.num_steps,
        rounding=_DOUBLE_EPS if result.provenance.precision == "float64" else _SINGLE_EPS,
    )
    return result.model_copy(update=curve_messages(curves) | {"smoothing": smoothing})


def _check_operations(result: LanczosResult, num_points: int, num_spectra: int) -> None:
    lengths = [len(rule.nodes) for rule in result.quadrature]
    some = lengths[:MOST_PROBES_WITH_FURTHER_RULES]
    exponentials = num_points * (_TABLES * sum(lengths) + _FURTHER_TABLES * sum(some))
    cubes, further_cubes = (sum(length**3 for length in each) for each in (lengths, some))
    eigenproblems = _EIGENPROBLEM * (_EIGENPROBLEMS * cubes + _FURTHER_EIGENPROBLEMS * further_cubes)
    if num_spectra * (_EXPONENTIAL * exponentials + eigenproblems) > MAX_OPERATIONS:
        message = f"{sum(lengths):,} nodes on {num_points:,} points are too many to smooth in a request; run a job"
        raise invalid_query("num_points", message)
