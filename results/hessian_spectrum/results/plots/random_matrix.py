"""Plots of random-matrix laws and index curves."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, IndexOfRatio, LawAnswer, LawSample
from hessian_spectrum.results.plots.figure import BLUE, GREEN, RED, Drawing, colour_scale

_POSITIVE, _NEGATIVE, _SAMPLE, _ATOM = BLUE, RED, "#9aa3ad", GREEN
_SIZE = (8, 4.5)
_MAX_LABELS = 12
_LOGARITHMIC_RATIO = 50
"""Ratio of the densities of most of the mass above which a linear axis would only show a spike."""


def plot_law(answer: LawAnswer) -> Drawing:
    """Plot a density with edges, atom, negative part and histogram of a sample."""

    def draw(figure: Figure) -> str:
        axes = figure.subplots()
        grid = np.asarray(answer.grid)
        density = np.asarray([np.nan if value is None else value for value in answer.density])
        if answer.sample is not None:
            _draw_sample(axes, answer.sample)
        axes.fill_between(grid, density, where=grid <= 0, color=_NEGATIVE, alpha=0.25, linewidth=0)
        label = "density" if answer.index == 0 else f"density, {answer.index:.3g} of it below 0"
        axes.plot(grid, density, color=_POSITIVE, linewidth=1.4, label=label)
        _draw_edges(axes, answer)
        _draw_atom(axes, answer)
        _scale_density(axes, answer, density)
        axes.set_xlabel("eigenvalue")
        axes.set_ylabel("density")
        axes.grid(alpha=0.25)
        axes.legend(loc="upper right", fontsize="small")
        return _title(answer)

    return Drawing(draw, _SIZE)


def plot_index_curves(answer: IndexCurveAnswer) -> Drawing:
    """Plot index against energy, a line for each ratio, with critical energies."""

    def draw(figure: Figure) -> str:
        axes = figure.subplots()
        colours = colour_scale(len(answer.curves))
        step = -(-len(answer.curves) // _MAX_LABELS)
        for number, (curve, colour) in enumerate(zip(answer.curves, colours, strict=True)):
            _draw_index_curve(axes, curve, colour, is_labelled=number % step == 0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("energy $\\epsilon$ (triangles: critical energies)")
        axes.set_ylabel("index $\\alpha$,\nshare of negative eigenvalues")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside right upper", fontsize="small")
        return f"Hessian law, {answer.parameters['activation']} activation"

    return Drawing(draw, _SIZE)


def _draw_index_curve(axes: Any, curve: IndexOfRatio, colour: Any, *, is_labelled: bool) -> None:
    order = np.argsort(curve.energies)
    energies = np.asarray(curve.energies)[order]
    index = np.where(energies > 0, np.asarray(curve.index)[order], curve.index_at_small_energy)
    axes.plot(energies, index, color=colour, linewidth=1.4, label=f"$\\phi$ = {curve.ratio:g}" if is_labelled else None)
    if curve.critical_energy is not None and curve.critical_energy <= energies[-1]:
        axes.plot(curve.critical_energy, 0, "v", color=colour, markersize=7, clip_on=False)


def _draw_sample(axes: Any, sample: LawSample) -> None:
    label = f"{sample.size:,} x {sample.size:,} sample, {sample.negative_fraction:.3g} below 0"
    axes.stairs(sample.density, sample.edges, fill=True, color=_SAMPLE, alpha=0.55, label=label)


def _draw_edges(axes: Any, answer: LawAnswer) -> None:
    for number, edge in enumerate(edge for interval in answer.support for edge in interval):
        axes.axvline(
            edge, color="black", linestyle=":", linewidth=1, label="edges of the support" if not number else None
        )


def _draw_atom(axes: Any, answer: LawAnswer) -> None:
    if answer.atom_at_zero:
        fraction, of_axes = answer.atom_at_zero, axes.get_xaxis_transform()
        label = f"atom at 0, mass {fraction:.3g}"
        axes.vlines(0, 0, fraction, color=_ATOM, linewidth=3, label=label, transform=of_axes)
        axes.plot(0, fraction, "^", color=_ATOM, markersize=9, transform=of_axes, clip_on=False)


def _scale_density(axes: Any, answer: LawAnswer, density: NDArray[np.float64]) -> None:
    """Set a linear axis up to twice the density that nine tenths of the mass stay below, or a logarithmic axis."""
    inside = np.isfinite(density) & (density > 0)  # the mass of narrow bands reaches points where the density is 0
    if not inside.any():
        return  # the points asked for lie outside of the support
    known = density[inside]
    masses = np.cumsum(np.gradient(np.asarray(answer.cumulative))[inside][np.argsort(known)])
    indices = np.searchsorted(masses, np.array([0.1, 0.9]) * masses[-1])
    low, high = np.sort(known)[np.minimum(indices, len(known) - 1)]
    highest = max(float(known.max()), max(answer.sample.density) if answer.sample else 0.0)
    if high > _LOGARITHMIC_RATIO * low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 100, 3 * highest)
    else:
        axes.set_ylim(0, 1.15 * min(highest, 2 * high))


def _title(answer: LawAnswer) -> str:
    if answer.law == "free-sum":
        return " + ".join(_described(part) for part in answer.parameters["laws"])
    critical = "" if answer.critical_energy is None else f"; critical energy {answer.critical_energy:.4g}"
    return _described(answer.parameters) + critical


def _described(parameters: dict[str, Any]) -> str:
    match parameters["law"]:
        case "wigner":
            return f"Wigner, variance {parameters['variance']:g}"
        case "wishart":
            return f"Wishart, variance {parameters['variance']:g}, ratio {parameters['ratio']:g}"
        case _:
            law = f"Hessian ({parameters['activation']})"
            return f"{law}, $\\epsilon$ = {parameters['energy']:g}, $\\phi$ = {parameters['ratio']:g}"
