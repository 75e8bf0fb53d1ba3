"""Intervals of Pearson coefficients and of differences between extreme ones: from resamples, or joint ones of few."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, norm

FloatArray = NDArray[np.float64]
Method = Literal["BCa", "percentile", "basic"]

FEWEST_RESAMPLED = 30
"""Number of individuals from which intervals of the bootstrap have nearly the coverage that they claim."""

NUM_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 500


@dataclass(frozen=True)
class Contrast:
    """Difference of the extreme coefficients of two groups of pairs of samples.

    Attributes:
        num_plus: Number of pairs in the first group; the second may be empty.
        pick: Smaller or larger of two arrays.
    """

    num_plus: int
    pick: np.ufunc

    def __call__(self, *arrays: FloatArray, axis: int = -1) -> FloatArray:
        """Return the contrast of samples that follow each other in pairs."""
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        return self._of([correlation(first, second, axis=axis) for first, second in pairs])

    def interval(
        self, arrays: Sequence[FloatArray], *, seed: int, confidence: float, method: Method
    ) -> tuple[float, float]:
        """Return a confidence interval.

        Args:
            arrays: Samples of shape (n,), two for each pair, none of them constant.
            seed: Seed of the bootstrap.
            confidence: Confidence of the interval.
            method: Kind of bootstrap interval.

        Returns:
            Its ends, which may be nan. For few individuals, they come from joint intervals of the coefficients.
        """
        if len(arrays[0]) < FEWEST_RESAMPLED:
            return self._joint_interval(arrays, confidence)
        ends = self._resampled(arrays, seed, confidence, method)
        return ends if np.isfinite(ends).all() else self._resampled(arrays, seed, confidence, "percentile")

    def _of(self, coefficients: Sequence[FloatArray]) -> FloatArray:
        plus, minus = coefficients[: self.num_plus], coefficients[self.num_plus :]
        extreme: FloatArray = self.pick.reduce(plus)
        return extreme - self.pick.reduce(minus) if minus else extreme

    def _joint_interval(self, arrays: Sequence[FloatArray], confidence: float) -> tuple[float, float]:
        """Return the ends that follow from intervals of all coefficients, which hold jointly (Bonferroni)."""
        pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
        single = 1 - (1 - confidence) / len(pairs)
        ends = [fisher_interval(float(correlation(*pair)), len(pair[0]), single) for pair in pairs]
        swapped = [ends[: self.num_plus], [(high, low) for low, high in ends[self.num_plus :]]]
        columns = zip(*(end for group in swapped for end in group), strict=True)
        lower, upper = (float(self._of([np.asarray(each) for each in column])) for column in columns)
        return lower, upper

    def _resampled(
        self, arrays: Sequence[FloatArray], seed: int, confidence: float, method: Method
    ) -> tuple[float, float]:
        # resamples that repeat one individual only have no correlation
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)
            interval = bootstrap(
                arrays,
                self,
                n_resamples=NUM_RESAMPLES,
                batch=_RESAMPLES_AT_ONCE,
                vectorized=True,
                paired=True,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        return float(interval.low), float(interval.high)


def correlation(first: FloatArray, second: FloatArray, axis: int = -1) -> FloatArray:
    """Return Pearson coefficients along an axis, nan where a sample is constant."""
    first = first - first.mean(axis=axis, keepdims=True)
    second = second - second.mean(axis=axis, keepdims=True)
    # scaled first, so that squares neither overflow nor vanish
    first = first / np.abs(first).max(axis=axis, keepdims=True)
    second = second / np.abs(second).max(axis=axis, keepdims=True)
    lengths = np.sqrt((first**2).sum(axis=axis) * (second**2).sum(axis=axis))
    coefficient: FloatArray = np.clip((first * second).sum(axis=axis) / lengths, -1.0, 1.0)
    return coefficient


def fisher_interval(coefficient: float, size: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a Pearson coefficient by Fisher's transformation.

    Args:
        coefficient: The coefficient r.
        size: Number n of individuals, whose numbers are about normal.
        confidence: Confidence of the interval.

    Returns:
        tanh(artanh r -+ z / sqrt(n - 3)) with the normal quantile z; [-1, 1] for n < 4.

    References:
        Fisher, Metron 1 (1921) 3-32.
    """
    if size < 4:
        return -1.0, 1.0
    if abs(coefficient) == 1:
        return coefficient, coefficient
    half = norm.ppf((1 + confidence) / 2) / np.sqrt(size - 3)
    centre = np.arctanh(coefficient)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))
