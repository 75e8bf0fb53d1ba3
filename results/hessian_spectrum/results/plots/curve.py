"""Plot of a single curve with its band."""

from typing import Any

from matplotlib.figure import Figure

from hessian_spectrum.api_schemas.spectrum_results import Cumulative, Density
from hessian_spectrum.results.plots.figure import Drawing

_BAND_OPACITY = 0.2


def draw_curve(axes: Any, curve: Density | Cumulative, **options: Any) -> None:
    """Add a curve and its 95 % band to axes, with options of `axes.plot` for the curve."""
    is_density = isinstance(curve, Density)
    options = {"linewidth": 1.4, "drawstyle": "default" if is_density else "steps-post"} | options
    (line,) = axes.plot(curve.grid, curve.values, **options)
    style = {"color": line.get_color(), "alpha": _BAND_OPACITY, "linewidth": 0}
    step = None if is_density else "post"
    axes.fill_between(curve.grid, curve.band.lower, curve.band.upper, step=step, **style)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("density" if is_density else "share of eigenvalues")


def plot_curve(curve: Density | Cumulative) -> Drawing:
    """Plot a density or a cumulative share alone."""

    def draw(figure: Figure) -> str:
        draw_curve(figure.subplots(), curve)
        return ""

    return Drawing(draw, (7, 4))
