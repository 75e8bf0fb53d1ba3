"""The picture of a result of any kind."""

from collections.abc import Callable
from functools import cache
from typing import Any

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.api_schemas.spectrum_results import Cumulative, Density, MethodResult
from hessian_spectrum.planning.registry import merged
from hessian_spectrum.results import plots
from hessian_spectrum.results.plots.closed_form import plot_closed_form
from hessian_spectrum.results.plots.curve import plot_curve
from hessian_spectrum.results.plots.figure import Drawing
from hessian_spectrum.results.plots.random_matrix import plot_index_curves, plot_law
from hessian_spectrum.results.plots.spectrum import plot_result
from hessian_spectrum.results.plots.spectrum_set import plot_spectrum_set
from hessian_spectrum.results.plots.trace import DiagonalSample
from hessian_spectrum.results.tables import AnyResult


def drawing_of(result: AnyResult, *, diagonal: DiagonalSample | None = None) -> Drawing:
    """Return the picture of a result.

    Args:
        result: The result of a job or a curve of it, a closed form, or a law of random matrices.
        diagonal: The diagonal that a trace job stored.

    Returns:
        The picture.
    """
    if isinstance(result, MethodResult):
        return plot_result(result, diagonal=diagonal)
    own = _PLOTS.get(type(result))
    return own(result) if own is not None else experiment_plots()[getattr(result, "kind", "")](result)


_PLOTS: dict[type, Callable[[Any], Drawing]] = {
    ClosedFormSpectrum: plot_closed_form,
    Cumulative: plot_curve,
    Density: plot_curve,
    IndexCurveAnswer: plot_index_curves,
    LawAnswer: plot_law,
    SpectrumSetResult: plot_spectrum_set,
}


@cache
def experiment_plots() -> dict[str, Callable[[Any], Drawing]]:
    """Return the plot functions of the experiments, from all modules of the package `plots`."""
    return merged(plots, "EXPERIMENT_PLOTS")
