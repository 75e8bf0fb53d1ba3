"""A random matrix of finite size that has a law as its limit, and the histogram of its eigenvalues."""

from dataclasses import dataclass

import numpy as np

from hessian_spectrum.theory.random_matrix.law import FreeLaw
from hessian_spectrum.theory.random_matrix.monotone import ROUNDING, Array


@dataclass(frozen=True)
class Sample:
    """Eigenvalues of one random matrix.

    Attributes:
        eigenvalues: Eigenvalues of shape (size,), ascending.
        realised_rates: Columns / size of the factor of each free Poisson part; the number of columns is rounded.
        resolution: Bound on the rounding error of an eigenvalue; one of at most this magnitude counts as 0.
    """

    eigenvalues: Array  # (size,) ascending
    realised_rates: tuple[float, ...]
    resolution: float

    @property
    def negative_fraction(self) -> float:
        """Share of the eigenvalues below 0, beyond rounding."""
        return float(np.mean(self.eigenvalues < -self.resolution))

    @property
    def zero_fraction(self) -> float:
        """Share of the eigenvalues that are 0 up to rounding."""
        return float(np.mean(np.abs(self.eigenvalues) <= self.resolution))


@dataclass(frozen=True)
class Histogram:
    """Histogram of eigenvalues as a density per unit of eigenvalue, with the mean density of the law in each bin."""

    edges: Array  # (num_bins + 1,) ascending
    counts: Array  # (num_bins,)
    density: Array  # (num_bins,) counts / (size x width)
    expected: Array  # (num_bins,) mass of the law / width


def draw_sample(law: FreeLaw, size: int, seed: int) -> Sample:
    """Eigenvalues of a size x size matrix: a symmetric Gaussian one plus a/n G G^T for each free Poisson part.

    The Gaussian matrix has variance s/n off the diagonal and 2 s/n on it. G is standard normal and n x m, where m is r
    n rounded to a whole number, at least 1. The parts are independent and invariant under rotations, hence free in the
    limit.

    Args:
        law: Law that the matrix has in the limit of infinite size.
        size: n >= 1, the number of rows.
        seed: Seed >= 0 of numpy's PCG64.

    Returns:
        The sample, which is the same for equal arguments and versions of numpy.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    matrix = np.zeros((size, size))
    if law.semicircle_variance > 0:
        entries = generator.standard_normal((size, size))
        matrix += (entries + entries.T) * np.sqrt(law.semicircle_variance / (2 * size))
    realised = []
    for rate, jump in zip(law.rates, law.jumps, strict=True):
        num_columns = max(1, round(rate * size))
        factor = _gaussian_factor(size, num_columns, generator)
        matrix += jump / size * (factor @ factor.T)
        realised.append(num_columns / size)
    eigenvalues = np.linalg.eigvalsh(matrix).astype(np.float64, copy=False)
    return Sample(eigenvalues, tuple(realised), size * ROUNDING * float(np.abs(eigenvalues).max()))


def _gaussian_factor(size: int, num_columns: int, generator: np.random.Generator) -> Array:
    """Return F of at most size columns such that F F^T has the law of G G^T, G standard normal, size x num_columns.

    F is lower triangular, standard normal below the diagonal; on the diagonal are the roots of chi-squared numbers of
    num_columns, num_columns - 1, ... degrees of freedom.

    Args:
        size: Number of rows.
        num_columns: Number of columns of G.
        generator: Source of randomness.

    Returns:
        F, of shape (size, min(size, num_columns)).

    References:
        Bartlett's decomposition (1933).
    """
    if num_columns < size:
        return generator.standard_normal((size, num_columns))
    factor: Array = np.tril(generator.standard_normal((size, size)), -1)
    np.fill_diagonal(factor, np.sqrt(generator.chisquare(num_columns - np.arange(size, dtype=np.float64))))
    return factor


def histogram(law: FreeLaw, sample: Sample, num_bins: int) -> Histogram:
    """Histogram over the whole support and every eigenvalue, without zeros if the law has an atom at 0.

    Args:
        law: Law to compare with.
        sample: Eigenvalues of a matrix drawn for the law.
        num_bins: Number of bins of equal width, >= 1.

    Returns:
        The histogram, with the mean density of the law in each bin.
    """
    eigenvalues = sample.eigenvalues
    low = min(law.support[0].low, float(eigenvalues[0]))
    high = max(law.support[-1].high, float(eigenvalues[-1]))
    counted = eigenvalues[np.abs(eigenvalues) > sample.resolution] if law.atom_at_zero else eigenvalues
    counts, edges = np.histogram(counted, bins=num_bins, range=(low, high))
    widths = np.diff(edges)
    masses = np.diff(law.cumulative(edges) - np.where(edges >= 0, law.atom_at_zero, 0.0))
    return Histogram(edges, counts, counts / (len(eigenvalues) * widths), masses / widths)
