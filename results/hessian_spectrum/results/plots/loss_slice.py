"""Plots of the loss along eigenvectors, with its quadratic model."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hessian_spectrum.api_schemas.methods.slice import SliceResult
from hessian_spectrum.results.plots.figure import BLUE, GREY, MethodPlot, axis_unit


def _draw(figure: Figure, result: SliceResult, _: Any) -> str:
    axes, offsets, num_points = figure.subplots(), np.asarray(result.offsets), len(result.offsets)
    losses, model = np.asarray(result.losses), np.asarray(result.quadratic_model)
    if len(result.eigenpairs) == 1:
        unit = axis_unit(float(abs(losses).max()))
        axes.plot(offsets, losses / unit, color=BLUE, label="loss")
        axes.plot(offsets, model / unit, "--", color=GREY, label="quadratic model")
        axes.set_xlabel("distance along the eigenvector")
        axes.set_ylabel("loss")
        axes.legend(fontsize="small")
    else:
        grids = [values.reshape(num_points, num_points).T for values in (losses, model)]
        filled = axes.contourf(offsets, offsets, grids[0], levels=20, cmap="viridis")
        if np.ptp(grids[1]) > 0:
            axes.contour(offsets, offsets, grids[1], levels=filled.levels, colors="white", linewidths=0.6)
        figure.colorbar(filled, ax=axes, label="loss (white lines: quadratic model)")
        axes.plot(0, 0, "+", color="white")
        axes.set_xlabel("distance along the first eigenvector")
        axes.set_ylabel("along the second")
    values = " and ".join(f"{pair.value:.4g}" for pair in result.eigenpairs)
    noun = "eigenvector" if len(result.eigenpairs) == 1 else "eigenvectors"
    return f"loss along the {noun} of {values}"


def _add(axes: Any, result: SliceResult, *, unit: float, colour: Any, label: str, index: int) -> None:
    """Add the loss along the first direction."""
    num_points = len(result.offsets)
    losses = np.asarray(result.losses).reshape(num_points, -1)
    axes.plot(result.offsets, losses[:, losses.shape[1] // 2] / unit, color=colour, label=label)


METHOD_PLOTS = {
    "slice": MethodPlot(
        _draw,
        extent=lambda result: float(np.abs(result.losses).max()),
        draw_in_set=_add,
        set_labels=lambda unit: ("distance along the first eigenvector", f"loss{unit}"),
    )
}
