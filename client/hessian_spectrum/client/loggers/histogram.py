"""Histograms of eigenvalues, from densities or from all eigenvalues."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.spectrum_results import Density

NUM_BINS = 64


@dataclass(frozen=True, eq=False)
class Histogram:
    """Number of eigenvalues in each of several bins of equal width.

    Attributes:
        edges: Edges of the bins, ascending, of shape (n + 1,).
        counts: Number of eigenvalues in each bin, of shape (n,); not integers if they are estimated.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Centres of the bins, of shape (n,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2


def histogram_of(result: Any, num_parameters: int) -> Histogram | None:
    """Count the eigenvalues of a result.

    Args:
        result: Result of a method, or the numbers at one step of a series.
        num_parameters: Number of rows of the matrix.

    Returns:
        The histogram; None if the method gives neither a density nor all eigenvalues.
    """
    density, eigenvalues = (getattr(result, name, None) for name in ("density", "eigenvalues"))
    if isinstance(density, Density):
        return _of_density(density, num_parameters)
    if not eigenvalues:
        return None
    repeated = getattr(result, "repeated", None)
    return _of_eigenvalues(eigenvalues, [] if repeated is None else [(repeated.value, repeated.multiplicity)])


def _of_density(density: Density, num_parameters: int) -> Histogram:
    """Integrate the density over each bin by the trapezoidal rule."""
    grid, values = np.asarray(density.grid), np.asarray(density.values)
    share = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (values[1:] + values[:-1]) / 2)])
    edges = np.linspace(grid[0], grid[-1], NUM_BINS + 1)
    return Histogram(edges, num_parameters * np.diff(np.interp(edges, grid, share)))


def _of_eigenvalues(eigenvalues: Sequence[float], repeated: Sequence[tuple[float, int]]) -> Histogram:
    values = [*eigenvalues, *(value for value, _ in repeated)]
    weights = [1.0] * len(eigenvalues) + [float(multiplicity) for _, multiplicity in repeated]
    counts, edges = np.histogram(values, NUM_BINS, weights=weights)
    return Histogram(edges, counts)
