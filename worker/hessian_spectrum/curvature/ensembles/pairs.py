"""The two pairs of eigenvalues whose sums are closest to a number, among all pairs of a spectrum."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hessian_spectrum.quadrature.exceptions import InvalidProblemError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DISTINCT = 1e-12
"""Distance, relative to the largest magnitude, up to which eigenvalues, and sums of them, count as equal."""

_NUM_NEIGHBOURS = 4


@dataclass(frozen=True)
class Pair:
    """Two eigenvalues of a spectrum of P, which is sorted in ascending order.

    Attributes:
        gap: Distance |low + high - target|.
        low: The smaller eigenvalue.
        high: The larger one.
        low_index: Position of `low` in the spectrum, 0 for the smallest; the first one if `low` is repeated.
        high_index: Position of `high`, P - 1 for the largest; the last one if `high` is repeated.
        num_copies: Number of pairs of positions i < j with this sum, this one included.
    """

    gap: float
    low: float
    high: float
    low_index: int
    high_index: int
    num_copies: int


@dataclass(frozen=True, eq=False)
class DistinctEigenvalues:
    """The distinct eigenvalues of a symmetric matrix.

    Attributes:
        values: The eigenvalues, ascending: (r,).
        counts: How often each of them occurs: (r,).
    """

    values: FloatArray
    counts: IntArray

    @property
    def resolution(self) -> float:
        """Distance up to which numbers of this spectrum count as equal."""
        return DISTINCT * float(np.abs(self.values).max())


def distinct_eigenvalues(eigenvalues: FloatArray, *, num_zeros: int = 0) -> DistinctEigenvalues:
    """Merge eigenvalues that are equal up to rounding.

    Neighbours in the sorted list belong together if they differ by at most `DISTINCT` times the largest magnitude; the
    merged value is their mean.

    Args:
        eigenvalues: Eigenvalues (r,), in any order.
        num_zeros: Number of further eigenvalues that are exactly zero.

    Returns:
        The distinct values with their multiplicities.

    Raises:
        InvalidProblemError: If there is no eigenvalue, or one is not finite.
    """
    if len(eigenvalues) + num_zeros == 0 or not np.isfinite(eigenvalues).all():
        raise InvalidProblemError("a spectrum of one or more finite eigenvalues is needed")
    zero = np.zeros(min(num_zeros, 1))
    values = np.sort(np.concatenate([eigenvalues, zero]))
    weights = np.ones(len(values), dtype=np.int64)
    if num_zeros:
        weights[np.searchsorted(values, 0.0)] = num_zeros
    resolution = DISTINCT * np.abs(values).max()
    starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > resolution)
    counts = np.add.reduceat(weights, starts)
    return DistinctEigenvalues(np.add.reduceat(values * weights, starts) / counts, counts)


def closest_pairs(spectrum: DistinctEigenvalues, target: float) -> tuple[Pair, Pair | None]:
    """Find the two pairs of eigenvalues whose sums are closest to a number, among all i < j.

    A repeated eigenvalue may be paired with itself. Pairs with equal sums count once, so that the second pair has
    another sum than the first: without this rule, a copy of the best pair would always be the second best.

    Args:
        spectrum: The eigenvalues, r distinct ones.
        target: The number, in the unit of the eigenvalues.

    Returns:
        The best pair, and the second best, or None if all pairs have one sum. Takes O(r log r) steps.

    Raises:
        InvalidProblemError: If the spectrum has fewer than two eigenvalues.

    References:
        Cracking the Hessian, appendix D.1.2, which does not say what is done with repeated eigenvalues.
    """
    values, counts = spectrum.values, spectrum.counts
    if counts.sum() < 2:
        raise InvalidProblemError("a pair needs two eigenvalues")
    first, second = _candidates(values, counts, target)
    sums = values[first] + values[second]
    order = np.lexsort((second, first, np.abs(sums - target)))  # ties in a stated order
    best = order[0]
    others = order[np.abs(sums[order] - sums[best]) > spectrum.resolution]
    pairs = []
    for index in (best, *others[:1]):
        copies = np.abs(sums - sums[index]) <= spectrum.resolution
        num_copies = _num_pairs(counts, first[copies], second[copies])
        pairs.append(_pair(spectrum, target, first[index], second[index], num_copies))
    return pairs[0], pairs[1] if len(pairs) > 1 else None


def _candidates(values: FloatArray, counts: IntArray, target: float) -> tuple[IntArray, IntArray]:
    """Return, for each value, the pairs with the values next to target - value, among which are the two best."""
    # A pair that is left out has, for its first member, three valid partners or more on the same side that are closer.
    # Their sums differ by more than the resolution, so that at most two of them count as the best pair's.
    positions = np.searchsorted(values, target - values)
    partners = positions[:, None] + np.arange(-_NUM_NEIGHBOURS, _NUM_NEIGHBOURS)
    first = np.broadcast_to(np.arange(len(values))[:, None], partners.shape)
    exists = (partners >= 0) & (partners < len(values))
    first, partners = first[exists], partners[exists]
    low, high = np.minimum(first, partners), np.maximum(first, partners)
    is_pair = (low < high) | (counts[low] > 1)
    return low[is_pair], high[is_pair]


def _num_pairs(counts: IntArray, first: IntArray, second: IntArray) -> int:
    """Number of pairs of positions, given the distinct values of each pair, some of them twice."""
    low, high = np.unique(np.stack([first, second]), axis=1)
    return int(np.where(low == high, counts[low] * (counts[low] - 1) // 2, counts[low] * counts[high]).sum())


def _pair(spectrum: DistinctEigenvalues, target: float, first: int, second: int, num_copies: int) -> Pair:
    low, high = float(spectrum.values[first]), float(spectrum.values[second])
    ends = np.cumsum(spectrum.counts)
    low_index, high_index = int(ends[first] - spectrum.counts[first]), int(ends[second] - 1)
    return Pair(abs(low + high - target), low, high, low_index, high_index, num_copies)
