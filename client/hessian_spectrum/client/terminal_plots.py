"""Plots as text, for terminals."""

import numpy as np
from rich.text import Text
from uniplot import plot_to_string

from hessian_spectrum.api_schemas.methods import LanczosResult

_DECADES = 6.0
"""Orders of magnitude below the largest density that are drawn."""

_FRAME_COLUMNS, _MOST_COLUMNS, _ROWS = 12, 100, 14


def density_plot(result: LanczosResult, columns: int) -> Text:
    """Draw the density of a Lanczos result with its 95 % band, on a logarithmic axis.

    Args:
        result: The result, which may be an interim one.
        columns: Width of the terminal in characters.

    Returns:
        The plot, with the numbers of probes and steps in its title.
    """
    density = result.density
    least = max(density.values) * 10**-_DECADES
    curves = [np.maximum(each, least) for each in (density.band.upper, density.band.lower, density.values)]
    plot = plot_to_string(
        xs=[np.asarray(density.grid)] * len(curves),
        ys=curves,
        lines=True,
        y_as_log=True,
        y_min=least,
        width=max(20, min(columns - _FRAME_COLUMNS, _MOST_COLUMNS)),
        height=_ROWS,
        title=f"density of the eigenvalues, {len(result.quadrature)} probes of {result.num_steps} steps",
        color=["cyan", "cyan", "blue"],
        character_set="braille",
    )
    return Text.from_ansi(plot)
