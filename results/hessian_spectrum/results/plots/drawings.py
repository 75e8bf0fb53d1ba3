"""The picture of a result of any kind."""

from collections.abc import Callable
from functools import cache
from typing import Any

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.jobs import AnyJobResult, SpectrumSetResult
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.planning.registry import merged
from hessian_spectrum.results import plots
from hessian_spectrum.results.plots.closed_form import plot_closed_form
from hessian_spectrum.results.plots.figure import Drawing
from hessian_spectrum.results.plots.random_matrix import plot_index_curves, plot_law
from hessian_spectrum.results.plots.spectrum import plot_result
from hessian_spectrum.results.plots.spectrum_set import plot_spectrum_set
from hessian_spectrum.results.plots.trace import DiagonalSample

AnyResult = AnyJobResult | ClosedFormSpectrum | LawAnswer | IndexCurveAnswer


def drawing_of(result: AnyResult, *, diagonal: DiagonalSample | None = None) -> Drawing:
    """Return the picture of a result.

    Args:
        result: The result of a job, a closed form, or a law of random matrices.
        diagonal: The diagonal that a trace job stored.

    Returns:
        The picture, not drawn yet.
    """
    match result:
        case ClosedFormSpectrum():
            return plot_closed_form(result)
        case LawAnswer():
            return plot_law(result)
        case IndexCurveAnswer():
            return plot_index_curves(result)
        case SpectrumSetResult():
            return plot_spectrum_set(result)
        case MethodResult():
            return plot_result(result, diagonal=diagonal)
        case _:
            return experiment_plots()[result.kind](result)


@cache
def experiment_plots() -> dict[str, Callable[[Any], Drawing]]:
    """Return what draws the results of each experiment; a module that is added to `plots` is found."""
    return merged(plots, "EXPERIMENT_PLOTS")
