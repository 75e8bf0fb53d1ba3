"""Plot of several spectra of one job: of attention sinks or of blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hessian_spectrum.api_schemas.estimate_text import error_bar, estimated, meaning_of_error
from hessian_spectrum.api_schemas.spectrum_results import (
    AnySpectrumResult,
    ExactResult,
    LanczosResult,
    SpectrumSetResult,
    TopKResult,
    TraceResult,
)
from hessian_spectrum.service.plots.figure import (
    DEFAULT_STYLE,
    FigureStyle,
    axis_unit,
    columns_that_fit,
    render_figure,
    unit_suffix,
)
from hessian_spectrum.service.plots.spectrum import LINEAR_RANGE, MATRIX_NAMES, density_curve, shortened

_LABEL_INCHES = 3.2
_MANY = 10  # most curves with distinct colours


def plot_spectrum_set(result: SpectrumSetResult, name: str, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Densities, eigenvalues by rank, cumulative spectra or traces in one figure, as a file of the format `name`."""
    unit = axis_unit(max(map(_extent, result.spectra)))

    def draw(figure: Figure) -> str:
        axes = figure.subplots()
        for number, (spectrum, colour) in enumerate(zip(result.spectra, _colours(len(result.spectra)), strict=True)):
            _draw(axes, spectrum, unit, colour, _name(spectrum), number)
        _label(axes, result.spectra, unit)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        columns = columns_that_fit(figure, 2 if len(result.spectra) <= _MANY else 4, _LABEL_INCHES)
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize="small")
        return _title(result.spectra)

    return render_figure(draw, size=(9, 5.2), name=name, style=style)


def _colours(number: int) -> list[Any]:
    """Colours of a qualitative map for a few curves, of a sequential map for many."""
    if number <= _MANY:
        return [colormaps["tab10"](index) for index in range(number)]
    return list(colormaps["viridis"](np.linspace(0, 0.92, number)))


def _extent(spectrum: AnySpectrumResult) -> float:
    """Largest magnitude of a spectrum."""
    match spectrum:
        case LanczosResult():
            return max(map(abs, spectrum.density.grid))
        case ExactResult():
            return max(map(abs, spectrum.eigenvalues))
        case TopKResult():
            return max(abs(pair.value) for pair in spectrum.eigenpairs)
        case TraceResult():
            return abs(spectrum.trace.value)


def _draw(axes: Any, spectrum: AnySpectrumResult, unit: float, colour: Any, label: str, number: int) -> None:
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

        case TraceResult(trace=trace):
            bar = np.asarray(error_bar(trace)).reshape(2, 1) / unit
            style = {"fmt": "o", "ms": 5, "lw": 1.4, "capsize": 4}
            axes.errorbar([number + 1], [trace.value / unit], bar, color=colour, label=label, **style)


def _draw_density(axes: Any, spectrum: LanczosResult, unit: float, colour: Any, label: str) -> None:
    curve = density_curve(spectrum, unit)
    style = {"color": colour, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(curve.grid, curve.lower, curve.upper, where=curve.is_shown, **style)
    axes.plot(curve.grid, curve.values, color=colour, linewidth=1.3, label=label)
    for end in (spectrum.smallest, spectrum.largest):
        axes.plot(end.value / unit, 1.5 * curve.floor, "^", color=colour, markersize=5, zorder=3)


def _label(axes: Any, spectra: Sequence[AnySpectrumResult], unit: float) -> None:
    first = spectra[0]
    eigenvalue = f"eigenvalue (loss per squared parameter){unit_suffix(unit)}"
    labels: dict[str, Callable[[], tuple[str, str]]] = {
        "lanczos": lambda: (eigenvalue, "density (bands: 95 %, triangles: both ends)"),
        "exact": lambda: (eigenvalue, "share of eigenvalues up to it"),
        "top-k": lambda: ("rank", f"eigenvalue{unit_suffix(unit)}"),
        "trace": lambda: ("spectrum, in the order of the legend", f"trace{unit_suffix(unit)}"),
    }
    across, up = labels[first.method]()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if first.method in ("top-k", "trace"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if _needs_decades(spectra):
        axes.set_yscale("log")
    densities = [density_curve(each, unit) for each in spectra if isinstance(each, LanczosResult)]
    if densities:
        floor = min(each.floor for each in densities)
        axes.set_ylim(floor, 3 * max(2 * floor, *(float(each.upper.max()) for each in densities)))


def _needs_decades(spectra: Sequence[AnySpectrumResult]) -> bool:
    """Whether the axis is logarithmic: for densities, and for positive eigenvalues by rank with a large ratio."""
    values = [pair.value for spectrum in spectra if isinstance(spectrum, TopKResult) for pair in spectrum.eigenpairs]
    if not values:
        return isinstance(spectra[0], LanczosResult)
    return min(values) > 0 and max(values) > LINEAR_RANGE * min(values)


def _name(spectrum: AnySpectrumResult) -> str:
    """Label of a spectrum: its block or sink and its largest eigenvalue or trace."""
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
        parts.append(f"largest {estimated(spectrum.largest)}")
    if isinstance(spectrum, TraceResult):
        parts.append(f"trace {estimated(spectrum.trace)}")
    return ", ".join(parts)


def _title(spectra: Sequence[AnySpectrumResult]) -> str:
    first, counts = spectra[0], [each.provenance.num_products for each in spectra]
    each = f"{counts[0]:,} {first.provenance.precision} products each"
    products = each if len(set(counts)) == 1 else f"{sum(counts):,} {first.provenance.precision} products"
    rows = "" if first.block is not None else f", {first.num_parameters:,} parameters"
    return f"{MATRIX_NAMES[first.matrix]}{rows}, {products}{_errors(first)}"


def _errors(spectrum: AnySpectrumResult) -> str:
    match spectrum:
        case LanczosResult(largest=number) | TraceResult(trace=number):
            return f" (±: {meaning_of_error(number)})"
        case _:
            return ""
