"""Plot of several spectra of one job: of attention sinks or of blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hessian_spectrum.api_schemas.estimate_text import estimated, meaning_of_error
from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult
from hessian_spectrum.results.plots.figure import (
    Drawing,
    MethodPlot,
    axis_unit,
    columns_that_fit,
    unit_suffix,
)
from hessian_spectrum.results.plots.spectrum import label_units, matrix_title, method_plots, shortened

_LABEL_INCHES = 3.2
_MANY = 10  # most curves with distinct colours


def plot_spectrum_set(result: SpectrumSetResult) -> Drawing:
    """Plot densities, eigenvalues by rank, cumulative spectra or traces in one figure."""
    plot = method_plots()[result.spectra[0].method]
    unit = axis_unit(max(map(plot.extent, result.spectra)))

    def draw(figure: Figure) -> str:
        axes = figure.subplots()
        for number, (spectrum, colour) in enumerate(zip(result.spectra, _colours(len(result.spectra)), strict=True)):
            label = _name(spectrum, plot)
            plot.draw_in_set(axes, spectrum, unit=unit, colour=colour, label=label, index=number)
        _label(axes, result.spectra, unit=unit, plot=plot)
        label_units(figure, result.spectra[0])
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        columns = columns_that_fit(figure, 2 if len(result.spectra) <= _MANY else 4, _LABEL_INCHES)
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize="small")
        return _title(result.spectra, plot)

    return Drawing(draw, (9, 5.2))


def _colours(number: int) -> list[Any]:
    """Return colours of a qualitative map for a few curves, of a sequential map for many."""
    if number <= _MANY:
        return [colormaps["tab10"](index) for index in range(number)]
    return list(colormaps["viridis"](np.linspace(0, 0.92, number)))


def _label(axes: Any, spectra: Sequence[AnySpectrumResult], *, unit: float, plot: MethodPlot) -> None:
    across, up = plot.set_labels(unit_suffix(unit))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if plot.has_ranks:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.scale_set(axes, spectra, unit)


def _name(spectrum: AnySpectrumResult, plot: MethodPlot) -> str:
    """Return the label of a spectrum: its block or sink and its largest eigenvalue or trace."""
    parts = []
    if spectrum.block is not None:
        parts.append(f"{shortened(spectrum.block)} ({spectrum.num_parameters:,})")
    sink = spectrum.attention_sink
    if sink is not None:
        kind = f"bias {sink.bias:.3g}" if sink.bias else "no sink"
        parts.append(f"mean score {sink.mean_score_after:.2f} ({kind})")
    elif spectrum.block is None:
        parts.append("no sink")
    if plot.headline is not None:
        name, number = plot.headline(spectrum)
        parts.append(f"{name} {estimated(number)}")
    return ", ".join(parts)


def _title(spectra: Sequence[AnySpectrumResult], plot: MethodPlot) -> str:
    first, counts = spectra[0], [each.provenance.num_products for each in spectra]
    each = f"{counts[0]:,} {first.provenance.precision} products each"
    products = each if len(set(counts)) == 1 else f"{sum(counts):,} {first.provenance.precision} products"
    rows = "" if first.block is not None else f", {first.num_parameters:,} parameters"
    errors = "" if plot.headline is None else f" (±: {meaning_of_error(plot.headline(first)[1])})"
    return f"{matrix_title(first)}{rows}, {products}{errors}"
