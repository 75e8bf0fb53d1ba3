"""The single numbers of a result that tables and curves show: largest and smallest eigenvalue, and the trace."""

from collections.abc import Mapping

from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult, TopKResult, TraceResult
from hessian_spectrum.api_schemas.spectrum_results import Eigenpair, Estimate, MethodResult, RitzValue


def headlines(result: MethodResult) -> Mapping[str, RitzValue | Estimate]:
    """The single numbers of a result.

    Args:
        result: The result of any method.

    Returns:
        Of `largest`, `smallest` and `trace` those that the method gives, each with its 95 % interval.
    """
    match result:
        case ExactResult():
            return _ends_of_all(result) | {"trace": result.trace}
        case LanczosResult():
            return {"largest": result.largest, "smallest": result.smallest, "trace": result.trace}
        case TopKResult():
            return _ends_of_pairs(result)
        case TraceResult():
            return {"trace": result.trace}
        case _:
            return {}


def _ends_of_all(result: ExactResult) -> dict[str, RitzValue | Estimate]:
    error, values = result.zero_threshold, result.eigenvalues
    if result.repeated is not None:
        values = [*values, result.repeated.value]
    ends = {"largest": max(values), "smallest": min(values)}
    return {
        name: Estimate(value=value, standard_error=None, lower=value - error, upper=value + error)
        for name, value in ends.items()
    }


def _ends_of_pairs(result: TopKResult) -> dict[str, Eigenpair]:
    pairs = result.eigenpairs
    match result.which:
        case "largest":
            return {"largest": pairs[0]}
        case "smallest":
            return {"smallest": pairs[-1]}
        case "both-ends":
            return {"largest": pairs[0]} | ({"smallest": pairs[-1]} if len(pairs) > 1 else {})
        case _:
            return {}
