"""Plot of a trace: the estimates with their intervals, and the distribution of the diagonal's entries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.estimate_text import error_bar, estimated, meaning_of_error, with_error
from hessian_spectrum.api_schemas.methods import TraceResult
from hessian_spectrum.api_schemas.spectrum_results import Estimate
from hessian_spectrum.results.plots.figure import (
    BLUE,
    GREY,
    RED,
    MethodPlot,
    axis_unit,
    columns_that_fit,
    decade_ticks,
    products_of,
    unit_suffix,
)

_MOST_BINS = 120
_LABEL_INCHES = 2.0
_LINEAR_RANGE = 100
"""Ratio of entries above which the axis is logarithmic."""

_LEAST_QUANTILE = 0.05  # quantile of the magnitudes at which a logarithmic axis begins
_MOST_DECADES = 6
_NO_ERROR = 0.05  # half-width of the axis relative to a number without an error
_LEAST_ROOM = 1e-4  # the same for a number with an error; shorter bars are dots, as all ticks would look the same

MAX_ENTRIES = 2_000_000
"""Largest number of entries of a diagonal that a plot reads: 32 MB with their errors."""

_BLOCK = 1000
"""Number of consecutive entries that are read together, so that a large file is not read as a whole."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DiagonalSample:
    """Entries of a diagonal with their standard errors: all of them, or evenly spaced blocks."""

    values: Numbers
    standard_errors: Numbers
    num_entries: int


def diagonal_sample(array: Callable[[str], Numbers]) -> DiagonalSample:
    """Read the part of a stored diagonal that a plot shows.

    Args:
        array: Returns the stored array of a name, which may be as long as the vector of parameters.

    Returns:
        At most `MAX_ENTRIES` entries.
    """
    values = array("diagonal")
    chosen = _chosen(len(values))
    errors = array("diagonal_standard_error")
    return DiagonalSample(np.array(values[chosen]), np.array(errors[chosen]), len(values))


def _chosen(num_entries: int) -> slice | NDArray[np.intp]:
    if num_entries <= MAX_ENTRIES:
        return slice(None)
    starts = np.linspace(0, num_entries - _BLOCK, MAX_ENTRIES // _BLOCK).astype(np.intp)
    return (starts[:, None] + np.arange(_BLOCK)).ravel()


def _draw_trace(figure: Figure, result: TraceResult, diagonal: DiagonalSample | None) -> str:
    """Draw both estimates side by side, and below them the histogram of the diagonal if there is one."""
    if diagonal is None:
        estimates = figure.subplots(1, 2)
    else:
        grid = figure.add_gridspec(2, 2, height_ratios=[1, 3])
        estimates = [figure.add_subplot(grid[0, column]) for column in range(2)]
        entries = figure.add_subplot(grid[1, :])
        _draw_diagonal(entries, diagonal)
        columns = columns_that_fit(figure, 3, _LABEL_INCHES)
        figure.legend(*entries.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize="small")
    figure.set_layout_engine("constrained", wspace=0.06)
    _draw_estimate(estimates[0], "trace", result.trace)
    _draw_estimate(estimates[1], "Frobenius norm", result.frobenius)
    return f"{result.estimator}, {products_of(result)}"


def _draw_estimate(axes: Any, name: str, number: Estimate) -> None:
    unit = axis_unit(abs(number.value))
    value, bar = number.value / unit, np.asarray(error_bar(number)).reshape(2, 1) / unit
    axes.errorbar([value], [0], xerr=bar, fmt="o", color=BLUE, ecolor=RED, capsize=6, elinewidth=1.6, markersize=6)
    room = max(1.6 * float(bar.max()), _LEAST_ROOM * abs(value)) if bar.any() else _NO_ERROR * abs(value) or 1.0
    axes.set_xlim(value - room, value + room)
    axes.locator_params(axis="x", nbins=3)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{name} {estimated(number)}", fontsize="small")
    axes.set_xlabel(f"bar: {meaning_of_error(number)}{unit_suffix(unit)}", fontsize="small")


def _draw_diagonal(axes: Any, diagonal: DiagonalSample) -> None:
    unit = axis_unit(float(abs(diagonal.values).max()))
    entries = diagonal.values / unit
    edges = _scaled_edges(axes, entries)
    for chosen, colour, sign in ((entries >= 0, BLUE, "at least 0"), (entries < 0, RED, "negative")):
        if chosen.any():
            axes.hist(entries[chosen], bins=edges, color=colour, label=f"{sign}: {chosen.sum():,}")
    mean = float(entries.mean())
    axes.axvline(mean, color=GREY, linestyle=":", linewidth=1.4, label=f"mean {with_error(mean * unit, None)}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_ylabel("number of entries")
    axes.set_xlabel(f"entry of the diagonal (loss per squared parameter){unit_suffix(unit)}")
    of_all = "" if diagonal.num_entries == len(entries) else f" of {diagonal.num_entries:,}"
    errors = f"standard error {np.median(diagonal.standard_errors):.1g} (median)"
    axes.set_title(f"{len(entries):,}{of_all} entries of the diagonal, {errors}", fontsize="small")


def _scaled_edges(axes: Any, entries: Any) -> Any:
    """Return edges of bins of equal width on the axis, one of them at 0, so that no bin holds both signs."""
    magnitudes = abs(entries[entries != 0])
    lowest, highest = float(min(entries.min(), 0.0)), float(max(entries.max(), 0.0))
    num_bins = min(_MOST_BINS, max(10, len(entries) // 4))
    if not len(magnitudes):
        return np.linspace(-1, 1, num_bins + num_bins % 2 + 1)
    least = max(float(np.quantile(magnitudes, _LEAST_QUANTILE)), float(magnitudes.max()) * 10.0**-_MOST_DECADES)
    if magnitudes.max() <= _LINEAR_RANGE * least:
        width = (highest - lowest) / num_bins
        return width * np.arange(np.floor(lowest / width), np.ceil(highest / width) + 1)
    axes.set_xscale("symlog", linthresh=least)
    axes.xaxis.set_major_locator(FixedLocator(decade_ticks(least / 10**0.5, float(magnitudes.max()))))
    axes.xaxis.set_minor_locator(NullLocator())
    transform = axes.xaxis.get_transform()
    low, high = transform.transform([lowest, highest])
    width = (high - low) / num_bins
    return transform.inverted().transform(width * np.arange(np.floor(low / width), np.ceil(high / width) + 1))


def _add_trace(axes: Any, spectrum: TraceResult, *, unit: float, colour: Any, label: str, index: int) -> None:
    bar = np.asarray(error_bar(spectrum.trace)).reshape(2, 1) / unit
    style = {"fmt": "o", "ms": 5, "lw": 1.4, "capsize": 4}
    axes.errorbar([index + 1], [spectrum.trace.value / unit], bar, color=colour, label=label, **style)


METHOD_PLOTS = {
    "trace": MethodPlot(
        _draw_trace,
        extent=lambda result: abs(result.trace.value),
        draw_in_set=_add_trace,
        set_labels=lambda unit: ("spectrum, in the order of the legend", f"trace{unit}"),
        has_ranks=True,
        headline=lambda result: ("trace", result.trace),
        height=lambda has_diagonal: 5 if has_diagonal else 2.2,
    )
}
