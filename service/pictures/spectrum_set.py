"""Several spectra of one job in one picture: of attention sinks, or of blocks."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from api_schemas.spectrum_results import (
    AnySpectrumResult,
    ExactResult,
    LanczosResult,
    SpectrumSetResult,
    TopKResult,
)
from service.formats.representations import DRAWING
from service.pictures.axes import in_units, unit_of
from service.pictures.spectrum import LEAST_BUMP, LINEAR_RANGE, MATRIX_NAMES, bump, shortened

_MANY = 10  # curves that colours of their own can tell apart


def draw_set(result: SpectrumSetResult, name: str) -> bytes:
    """The spectra over one another, `name` png or svg: densities, eigenvalues by rank, or cumulative spectra.

    Raises:  TypeError for traces.
    """
    with DRAWING:
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        axes = figure.subplots()
        unit = unit_of(max(map(_extent, result.spectra)))
        for spectrum, colour in zip(result.spectra, _colours(len(result.spectra)), strict=True):
            _draw(axes, spectrum, unit, colour, _name(spectrum))
        _label(axes, result.spectra[0], unit)
        if _needs_decades(result.spectra):
            axes.set_yscale("log")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        columns = 2 if len(result.spectra) <= _MANY else 4
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize="small")
        figure.suptitle(_title(result.spectra), fontsize="medium")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=name, dpi=150, metadata={"Date": None} if name == "svg" else None)
        return buffer.getvalue()


def _colours(number: int) -> list[Any]:
    """Those of a qualitative map, or as many as needed of one that goes from dark to light."""
    if number <= _MANY:
        return [colormaps["tab10"](index) for index in range(number)]
    return list(colormaps["viridis"](np.linspace(0, 0.92, number)))


def _extent(spectrum: AnySpectrumResult) -> float:
    """Largest magnitude."""
    match spectrum:
        case LanczosResult():
            return max(map(abs, spectrum.density.grid))
        case ExactResult():
            return max(map(abs, spectrum.eigenvalues))
        case TopKResult():
            return max(abs(pair.value) for pair in spectrum.eigenpairs)
        case _:
            raise TypeError(f"no picture of method {spectrum.method}")


def _draw(axes: Any, spectrum: AnySpectrumResult, unit: float, colour: Any, label: str) -> None:
    match spectrum:
        case LanczosResult():
            _draw_density(axes, spectrum, unit, colour, label)
        case ExactResult(eigenvalues=eigenvalues):
            shares = np.arange(1, len(eigenvalues) + 1) / len(eigenvalues)
            axes.step(np.asarray(eigenvalues) / unit, shares, where="post", color=colour, linewidth=1.3, label=label)
        case TopKResult(eigenpairs=pairs):
            values, residuals = (np.asarray([getattr(p, n) for p in pairs]) / unit for n in ("value", "residual"))
            axes.errorbar(
                np.arange(1, len(pairs) + 1), values, residuals, fmt="o-", ms=3, lw=1, color=colour, label=label
            )


def _draw_density(axes: Any, spectrum: LanczosResult, unit: float, colour: Any, label: str) -> None:
    grid, values = np.asarray(spectrum.density.grid) / unit, np.asarray(spectrum.density.values) * unit
    lower, upper = (np.asarray(each) * unit for each in (spectrum.density.band.lower, spectrum.density.band.upper))
    # what is below a part of one eigenvalue's bump says nothing, and is not drawn
    floor = LEAST_BUMP * bump(spectrum, grid)
    shown = np.where(values > floor, values, np.nan)
    axes.fill_between(grid, np.maximum(lower, floor), np.maximum(upper, floor), color=colour, alpha=0.15, linewidth=0)
    axes.plot(grid, shown, color=colour, linewidth=1.3, label=label)
    for end in (spectrum.smallest, spectrum.largest):
        axes.plot(end.value / unit, 1.5 * floor, "^", color=colour, markersize=5, zorder=3)


def _label(axes: Any, spectrum: AnySpectrumResult, unit: float) -> None:
    eigenvalue = f"eigenvalue (loss per squared parameter){in_units(unit)}"
    labels: dict[str, Callable[[], tuple[str, str]]] = {
        "lanczos": lambda: (eigenvalue, "density (bands: 95 %, triangles: both ends)"),
        "exact": lambda: (eigenvalue, "share of eigenvalues up to it"),
        "top-k": lambda: ("rank", f"eigenvalue{in_units(unit)}"),
    }
    across, up = labels[spectrum.method]()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if spectrum.method == "top-k":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _needs_decades(spectra: Sequence[AnySpectrumResult]) -> bool:
    """Densities always do, eigenvalues by rank where all are positive and a linear axis cannot tell them apart."""
    values = [pair.value for spectrum in spectra if isinstance(spectrum, TopKResult) for pair in spectrum.eigenpairs]
    if not values:
        return isinstance(spectra[0], LanczosResult)
    return min(values) > 0 and max(values) > LINEAR_RANGE * min(values)


def _name(spectrum: AnySpectrumResult) -> str:
    """What tells it from the others, the mean score without a sink where it has none, and its largest eigenvalue."""
    parts = []
    if spectrum.block is not None:
        parts.append(f"{shortened(spectrum.block)} ({spectrum.num_parameters:,})")
    sink = spectrum.attention_sink
    if sink is not None:
        kind = f"bias {sink.bias:.3g}" if sink.bias else "no sink"
        parts.append(f"mean score {sink.mean_score_after:.2f} ({kind})")
    elif spectrum.block is None:
        parts.append("no sink")
    if isinstance(spectrum, LanczosResult):
        parts.append(f"largest {spectrum.largest.value:.5g} ± {spectrum.largest.residual:.1g}")
    return ", ".join(parts)


def _title(spectra: Sequence[AnySpectrumResult]) -> str:
    first, counts = spectra[0], [each.provenance.num_products for each in spectra]
    each = f"{counts[0]:,} {first.provenance.precision} products each"
    products = each if len(set(counts)) == 1 else f"{sum(counts):,} {first.provenance.precision} products"
    rows = "" if first.block is not None else f", {first.num_parameters:,} parameters"
    return f"{MATRIX_NAMES[first.matrix]}{rows}, {products}"
