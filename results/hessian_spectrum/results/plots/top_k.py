"""Plot of some eigenpairs: values with their errors, and residuals beside the tolerance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from hessian_spectrum.api_schemas.estimate_text import error_bar
from hessian_spectrum.api_schemas.methods import TopKResult
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
from hessian_spectrum.results.plots.spectrum import LABEL_INCHES, LINEAR_RANGE, MAX_DECADES, Numbers
from hessian_spectrum.results.plots.trace import DiagonalSample

_FEW = 100  # points that are drawn large


def _draw_top_k(figure: Figure, result: TopKResult, _: DiagonalSample | None) -> str:
    pairs = result.eigenpairs
    unit = axis_unit(_top_k_extent(result))
    values, residuals = (np.asarray([getattr(p, name) for p in pairs]) / unit for name in ("value", "residual"))
    converged = np.asarray([pair.converged for pair in pairs])
    ranks, few = _ranks(result), len(pairs) <= _FEW
    stems, bars = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    foot = (result.target or 0.0) / unit
    name = None if result.target is None else f"target: {result.target:.6g}"
    stems.axhline(foot, color="black", linewidth=0.8, alpha=0.4 if name is None else 0.8, label=name)
    stems.vlines(ranks, foot, values, color=GREY, linewidth=1 if few else 0.4)
    bar_style = {"fmt": "none", "ecolor": RED, "elinewidth": 1, "capsize": 2, "zorder": 2}
    bars_label = "residual" if name is None else "95 % interval"
    stems.errorbar(ranks, values, _error_bars(result, unit), label=bars_label, **bar_style)
    for axes, heights in ((stems, values), (bars, np.maximum(residuals, np.finfo(np.float64).tiny))):
        for chosen, fill, label in ((converged, BLUE, "eigenvalue, converged"), (~converged, "white", "not converged")):
            if chosen.any():
                style = {"mfc": fill, "mec": BLUE, "markersize": 5 if few else 2, "zorder": 3}
                axes.plot(ranks[chosen], heights[chosen], "o", label=f"{label}: {chosen.sum():,}", **style)
    if foot == 0:
        _scale_stems(stems, abs(values[values != 0]))
    stems.set_ylabel(f"eigenvalue{unit_suffix(unit)}")
    columns = columns_that_fit(figure, 4, LABEL_INCHES)
    handles = stems.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize="small")
    tolerances = _tolerances(result, values, unit)
    bars.plot(ranks, tolerances, color=RED, linestyle="--", linewidth=1, drawstyle="steps-mid", marker="_")
    bars.set_yscale("log")
    bars.yaxis.set_minor_formatter(NullFormatter())
    heights = np.append(residuals[residuals > 0], tolerances[tolerances > 0] if tolerances.any() else 1.0)
    bars.set_ylim(heights.min() / 5, 5 * heights.max())
    bars.set_ylabel(f"residual{unit_suffix(unit)}\n(dashed: tolerance)")
    _label_ranks(bars, result)
    return f"{_eigenvalues_title(result)}, {products_of(result)}"


def _tolerances(result: TopKResult, values: Numbers, unit: float) -> Numbers:
    """Return the tolerance of each pair: relative to the largest value of its end, or absolute if that is larger."""
    if result.target is not None:
        return np.full(len(values), (result.absolute_tolerance or 0.0) / unit)
    tolerances = np.full(len(values), result.tolerance * abs(values).max())
    if result.which == "both-ends" and len(values) > 1:
        upper = (len(values) + 1) // 2
        tolerances[:upper] = result.tolerance * abs(values[:upper]).max()
        tolerances[upper:] = result.tolerance * abs(values[upper:]).max()
    allowed: Numbers = np.maximum(tolerances, (result.absolute_tolerance or 0.0) / unit)
    return allowed


def _error_bars(result: TopKResult, unit: float) -> Numbers:
    """Return lengths below and above each value (2, k): its residual, or to the ends of its interval if `nearest`."""
    lengths = [(pair.residual,) * 2 if result.target is None else error_bar(pair) for pair in result.eigenpairs]
    return np.asarray(lengths, dtype=np.float64).T / unit


def _top_k_extent(result: TopKResult) -> float:
    return max(abs(result.target or 0.0), *(abs(pair.value) for pair in result.eigenpairs))


def _scale_stems(axes: Any, magnitudes: Numbers) -> None:
    if len(magnitudes) and magnitudes.max() > LINEAR_RANGE * magnitudes.min():
        smallest = max(float(magnitudes.min()), float(magnitudes.max()) * 10.0**-MAX_DECADES)
        axes.set_yscale("symlog", linthresh=smallest)
        # the linear part is as high as a decade: a label at its end has room
        ticks = decade_ticks(smallest / 10**0.5, float(magnitudes.max()))
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())


def _num_largest(result: TopKResult) -> int:
    """Return how many of the pairs, which are the first ones, are not counted from the lower end."""
    count = len(result.eigenpairs)
    return (count + 1) // 2 if result.which == "both-ends" else count


def _ranks(result: TopKResult) -> Numbers:
    """Return the places of the pairs on the axis of ranks; between both ends of a spectrum one place stays empty."""
    places = np.arange(1.0, len(result.eigenpairs) + 1)
    places[_num_largest(result) :] += 1
    return places


def _label_ranks(axes: Any, result: TopKResult) -> None:
    """Label the places of `_ranks`: from the smallest eigenvalue on, ranks are -1, -2, and so on."""
    num_largest, last = _num_largest(result), len(result.eigenpairs) + 1
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank")
    if num_largest == len(result.eigenpairs):
        return

    def label(place: float, _: int | None) -> str:
        if place <= num_largest:
            return f"{place:.0f}"
        return "" if place == num_largest + 1 or place > last else f"{place - last - 1:.0f}"

    axes.xaxis.set_major_formatter(FuncFormatter(label))
    axes.set_xlabel("rank (negative: from the smallest eigenvalue)")


def _eigenvalues_title(result: TopKResult) -> str:
    count = len(result.eigenpairs)
    number = "" if count == 1 else f"{count:,} "
    noun = "eigenvalue" if count == 1 else "eigenvalues"
    if result.target is not None:
        return f"the {number}{noun} nearest to {result.target:.6g}"
    return {
        "largest": f"the {number}largest {noun}",
        "smallest": f"the {number}smallest {noun}",
        "magnitude": f"the {number}{noun} of largest magnitude",
    }.get(result.which, f"{count:,} {noun} at both ends")


def _add_top_k(axes: Any, spectrum: TopKResult, *, unit: float, colour: Any, label: str, index: int) -> None:
    pairs = spectrum.eigenpairs
    values, ranks = np.asarray([pair.value for pair in pairs]) / unit, _ranks(spectrum)
    errors, num_largest = _error_bars(spectrum, unit), _num_largest(spectrum)
    for part in (slice(num_largest), slice(num_largest, None)):
        style = {"fmt": "o-", "ms": 3, "lw": 1, "color": colour, "label": label if part.start is None else "_"}
        axes.errorbar(ranks[part], values[part], errors[:, part], **style)
    if spectrum.target is not None and index == 0:
        axes.axhline(spectrum.target / unit, color="black", linewidth=0.8, linestyle="--", zorder=0)


def _scale_top_k(axes: Any, spectra: Sequence[TopKResult], _: float) -> None:
    """Set a logarithmic axis for positive eigenvalues with a large ratio, and label the ranks."""
    _label_ranks(axes, spectra[0])
    values = [pair.value for spectrum in spectra for pair in spectrum.eigenpairs]
    if min(values) > 0 and max(values) > LINEAR_RANGE * min(values):
        axes.set_yscale("log")


METHOD_PLOTS = {
    "top-k": MethodPlot(
        _draw_top_k,
        extent=_top_k_extent,
        draw_in_set=_add_top_k,
        set_labels=lambda unit: ("rank", f"eigenvalue{unit}"),
        scale_set=_scale_top_k,
    ),
}
