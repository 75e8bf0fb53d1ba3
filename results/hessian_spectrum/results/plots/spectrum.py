"""Plots of the spectra that jobs compute."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.estimate_text import estimated, meaning_of_error
from hessian_spectrum.api_schemas.matrices import OF_GRADIENTS
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, ExactResult, LanczosResult
from hessian_spectrum.planning.registry import merged
from hessian_spectrum.results import plots
from hessian_spectrum.results.plots.figure import (
    BLUE,
    GREEN,
    GREY,
    RED,
    Drawing,
    MethodPlot,
    axis_unit,
    columns_that_fit,
    products_of,
    shortened,
    unit_suffix,
)
from hessian_spectrum.results.plots.trace import DiagonalSample

_MATRIX_NAMES = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "functional": "functional Hessian",
    "fisher": "Fisher matrix",
    "empirical-fisher": "empirical Fisher matrix",
    "gradient-covariance": "covariance of gradients",
}

LINEAR_RANGE = 100
"""Ratio of magnitudes above which the axis is logarithmic."""

MAX_DECADES = 12
LABEL_INCHES = 2.2  # width of an entry of the legend below the picture
LEAST_BUMP = 0.02
"""Densities below this share of the peak of a single eigenvalue carry no information and are not drawn."""

_UNIT = " (loss per squared parameter)"
_EIGENVALUE = f"eigenvalue{_UNIT}"

Numbers = NDArray[np.float64]


def plot_result(result: AnySpectrumResult, *, diagonal: DiagonalSample | None = None) -> Drawing:
    """Plot a result.

    Args:
        result: Result of a spectrum job.
        diagonal: The diagonal that a trace job stored, whose distribution is plotted.

    Returns:
        The picture.
    """
    plot = method_plots()[result.method]

    def draw(figure: Figure) -> str:
        title = plot.draw(figure, result, diagonal)
        for axes in figure.axes:
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        label_units(figure, result)
        return f"{_subject(result)}, {title}"

    return Drawing(draw, (9, plot.height(diagonal is not None)))


@cache
def method_plots() -> dict[str, MethodPlot]:
    """Return the plot functions of each method, from all modules of this package."""
    return merged(plots, "METHOD_PLOTS")


def _draw_exact(figure: Figure, result: ExactResult, _: DiagonalSample | None) -> str:
    unit = axis_unit(_largest_magnitude(result))
    eigenvalues = _every_eigenvalue(result) / unit
    threshold, inertia = result.zero_threshold / unit, result.inertia
    negative, positive = eigenvalues[eigenvalues < -threshold], eigenvalues[eigenvalues > threshold]
    histogram, ranks = figure.subplots(1, 2)
    width = max(float(np.ptp(eigenvalues)), threshold) / min(120, max(10, len(eigenvalues) // 4)) or 1.0
    for values, colour, label in (
        (negative, RED, f"negative: {inertia.negative:,}"),
        (positive, BLUE, f"positive: {inertia.positive:,}"),
    ):
        if len(values):
            # an edge at 0: no bin holds both signs
            first, last = math.floor(values.min() / width), math.floor(values.max() / width) + 1
            histogram.hist(values, bins=width * np.arange(first, last + 1), color=colour, label=label)
            ranked = np.sort(abs(values))[::-1]
            ranks.plot(
                np.arange(1, len(ranked) + 1), ranked, "o", color=colour, markersize=4 if len(ranked) <= 50 else 2
            )
    if inertia.zero:
        histogram.vlines(0, 0.5, inertia.zero, color=GREY, linewidth=1.2)
        histogram.plot(0, inertia.zero, "D", color=GREY, markersize=5, label=f"zero: {inertia.zero:,}")
    histogram.set_yscale("log")
    histogram.set_ylim(bottom=0.5)
    histogram.set_xlabel(_axis_label(unit))
    histogram.set_ylabel("number of eigenvalues")
    handles = histogram.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns_that_fit(figure, 3, 1.5), fontsize="small")
    _scale_ranks(ranks, np.concatenate([-negative, positive]), threshold)
    ranks.set_ylabel(f"magnitude{unit_suffix(unit)}")
    first, last = eigenvalues[0] * unit, eigenvalues[-1] * unit
    return f"from {first:.4g} to {last:.4g}, trace {result.trace.value:.4g}"


def _every_eigenvalue(result: ExactResult) -> Numbers:
    """Return all eigenvalues, ascending, with the copies of one that the result does not list."""
    listed, repeated = np.asarray(result.eigenvalues), result.repeated
    return listed if repeated is None else np.sort(np.append(listed, np.full(repeated.multiplicity, repeated.value)))


def _largest_magnitude(result: ExactResult) -> float:
    unlisted = [] if result.repeated is None else [result.repeated.value]
    return max(map(abs, [*result.eigenvalues, *unlisted]))


def _scale_ranks(axes: Any, magnitudes: Numbers, threshold: float) -> None:
    axes.set_xlabel("rank among those of its sign")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(magnitudes) == 0:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "every eigenvalue is zero\nup to rounding", ha="center", va="center")
        return
    largest = float(magnitudes.max())
    lowest = max(float(magnitudes.min()), largest * 10.0**-MAX_DECADES)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(lowest / 3, 3 * largest)
    if threshold > lowest / 3:
        axes.axhline(threshold, color=GREY, linestyle="--", linewidth=1, label="counts as zero below")
        axes.legend(loc="upper right", fontsize="small")


def _draw_lanczos(figure: Figure, result: LanczosResult, _: DiagonalSample | None) -> str:
    density, shares = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    unit = axis_unit(max(map(abs, result.density.grid)))
    _draw_density(density, result, unit)
    _draw_shares(shares, result, unit)
    shares.set_xlabel(_axis_label(unit))
    for name, end, colour in (("smallest", result.smallest, GREEN), ("largest", result.largest, RED)):
        label = f"{name} {estimated(end)}"
        density.axvline(end.value / unit, color=colour, linestyle=":", linewidth=1.2, label=label)
        shares.axvline(end.value / unit, color=colour, linestyle=":", linewidth=1.2)
    columns = columns_that_fit(figure, 4, LABEL_INCHES)
    figure.legend(*density.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize="small")
    ends, trace = meaning_of_error(result.largest), meaning_of_error(result.trace)
    errors = f"errors: {ends}" if ends == trace else f"errors of the ends: {ends}, of the trace: {trace}"
    state = "; interim result, more is to come" if result.interim else ""
    return f"trace {estimated(result.trace)}, {products_of(result)} ({errors}){state}"


def _draw_density(axes: Any, result: LanczosResult, unit: float) -> None:
    curve = density_curve(result, unit)
    axes.fill_between(
        curve.grid, curve.lower, curve.upper, where=curve.is_shown, color=BLUE, alpha=0.25, lw=0, label="95 % band"
    )
    axes.plot(curve.grid, curve.values, color=BLUE, linewidth=1.2, label="density")
    axes.set_yscale("log")
    axes.set_ylim(curve.floor, 3 * max(float(curve.upper.max()), 2 * curve.floor))
    axes.set_ylabel("density")


def _draw_shares(axes: Any, result: LanczosResult, unit: float) -> None:
    """Draw on a logit axis, since a cumulative spectrum is read for the few eigenvalues at either end."""
    least = 0.3 / max(result.num_parameters, 2)
    curve = result.cumulative
    grid = np.asarray(curve.grid) / unit
    lower, values, upper = (
        np.clip(np.asarray(each), least, 1 - least) for each in (curve.band.lower, curve.values, curve.band.upper)
    )
    axes.fill_between(grid, lower, upper, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(grid, values, color=BLUE, linewidth=1.2)
    axes.set_yscale("logit")
    axes.set_ylim(least, 1 - least)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.{_share_digits(share)}f}"))
    num_decades = math.floor(-math.log10(least))
    step = 1 + num_decades // 4
    tails = 10.0 ** -np.arange(step, num_decades + 1, step)
    axes.yaxis.set_major_locator(FixedLocator([*tails, 0.5, *(1 - tails)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("share of\neigenvalues below")


def _share_digits(share: float) -> int:
    """Return the number of digits that distinguish the share from 0 and from 1."""
    return max(1, math.ceil(-math.log10(min(share, 1 - share)) - 1e-6)) if 0 < share < 1 else 0


@dataclass(frozen=True, eq=False)
class DensityCurve:
    """A density and its band in units of the axes; neither is drawn below the floor.

    Attributes:
        is_shown: Where the density is above the floor. The band is drawn only there, as the line leads down below the
            floor and would leave a band without a curve.
    """

    grid: Numbers
    values: Numbers
    lower: Numbers
    upper: Numbers
    floor: float
    is_shown: NDArray[np.bool_]


def density_curve(result: LanczosResult, unit: float) -> DensityCurve:
    """Return the density of a result as plots show it."""
    density = result.density
    grid = np.asarray(density.grid) / unit
    values, lower, upper = (
        np.asarray(each) * unit for each in (density.values, density.band.lower, density.band.upper)
    )
    floor = LEAST_BUMP * _bump(result, grid)
    is_shown = values > floor
    # lines must reach below the floor; the logarithm of 0 would end them
    values, lower, upper = (np.maximum(each, floor / 1000) for each in (values, lower, upper))
    return DensityCurve(grid, values, lower, upper, floor, is_shown)


def _bump(result: LanczosResult, grid: Numbers) -> float:
    """Return the height of the Gaussian of a single eigenvalue."""
    sigma = (grid[-1] - grid[0]) / max(result.num_steps - 1, 1) / math.sqrt(8 * math.log(result.smoothing.kappa))
    return float(1 / (result.num_parameters * sigma * math.sqrt(2 * math.pi)))


def _subject(result: AnySpectrumResult) -> str:
    block = "" if result.block is None else f" of {shortened(result.block)}"
    return f"{matrix_title(result)}{block}: {result.num_parameters:,} parameters"


def matrix_title(result: AnySpectrumResult) -> str:
    """Return the name of a result's matrix with its options, such as `Preconditioned Hessian + 0.25 I`."""
    name = _MATRIX_NAMES[result.matrix]
    name = name if result.preconditioner is None else f"preconditioned {name}"
    shift = f" {'+' if result.shift > 0 else '-'} {abs(result.shift):.4g} I" if result.shift else ""
    return f"{name[0].upper()}{name[1:]}{shift}"


def label_units(figure: Figure, result: AnySpectrumResult) -> None:
    """Replace the unit of eigenvalues on the axes where a matrix does not have that of the Hessian.

    Matrices of gradients have its square in the loss; with a preconditioner it depends on the unit of the diagonal.
    """
    if result.preconditioner is None and result.matrix not in OF_GRADIENTS:
        return
    unit = " (squared loss per squared parameter)" if result.preconditioner is None else ""
    for axes in figure.axes:
        axes.set_xlabel(axes.get_xlabel().replace(_UNIT, unit))


def _axis_label(unit: float) -> str:
    return f"{_EIGENVALUE}{unit_suffix(unit)}"


def _add_exact(axes: Any, spectrum: ExactResult, *, unit: float, colour: Any, label: str, index: int) -> None:
    eigenvalues = _every_eigenvalue(spectrum)
    shares = np.arange(1, len(eigenvalues) + 1) / len(eigenvalues)
    axes.step(eigenvalues / unit, shares, where="post", color=colour, linewidth=1.3, label=label)


def _add_density(axes: Any, spectrum: LanczosResult, *, unit: float, colour: Any, label: str, index: int) -> None:
    curve = density_curve(spectrum, unit)
    style = {"color": colour, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(curve.grid, curve.lower, curve.upper, where=curve.is_shown, **style)
    axes.plot(curve.grid, curve.values, color=colour, linewidth=1.3, label=label)
    for end in (spectrum.smallest, spectrum.largest):
        axes.plot(end.value / unit, 1.5 * curve.floor, "^", color=colour, markersize=5, zorder=3)


def _scale_densities(axes: Any, spectra: Sequence[LanczosResult], unit: float) -> None:
    axes.set_yscale("log")
    densities = [density_curve(each, unit) for each in spectra]
    floor = min(each.floor for each in densities)
    axes.set_ylim(floor, 3 * max(2 * floor, *(float(each.upper.max()) for each in densities)))


METHOD_PLOTS = {
    "exact": MethodPlot(
        _draw_exact,
        extent=_largest_magnitude,
        draw_in_set=_add_exact,
        set_labels=lambda unit: (f"{_EIGENVALUE}{unit}", "share of eigenvalues up to it"),
    ),
    "lanczos": MethodPlot(
        _draw_lanczos,
        extent=lambda result: max(map(abs, result.density.grid)),
        draw_in_set=_add_density,
        set_labels=lambda unit: (f"{_EIGENVALUE}{unit}", "density (bands: 95 %, triangles: both ends)"),
        scale_set=_scale_densities,
        headline=lambda result: ("largest", result.largest),
    ),
}
