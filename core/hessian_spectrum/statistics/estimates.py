"""Estimates with 95 % confidence intervals: correlations and their differences, means, medians, ratios, proportions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, quantile_test, t

from hessian_spectrum.statistics.coefficients import Contrast, Method

FloatArray = NDArray[np.float64]
Pair = tuple[ArrayLike, ArrayLike]
Which = Literal["smallest", "largest"]

CONFIDENCE = 0.95

FEWEST = 3
"""Smallest number of individuals from which an estimate is made."""

_TOO_FEW = f"fewer than {FEWEST} numbers"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval.

    Attributes:
        value: The number, None if the samples do not determine it.
        lower: Lower end of the interval, None if there is none.
        upper: Upper end.
        why: The reason for an end or a value that is None.
    """

    value: float | None
    lower: float | None
    upper: float | None
    why: str | None = None


def unknown(why: str) -> Estimate:
    """Return an estimate without value, for the reason given."""
    return Estimate(None, None, None, why)


def joint_confidence(count: int) -> float:
    """Return the confidence of each of so many intervals that hold jointly with 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(count, 1)


def pearson(first: ArrayLike, second: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the Pearson correlation coefficient of two samples.

    Args:
        first: Numbers of shape (n,), of any unit.
        second: Numbers of shape (n,), one for each of `first`.
        seed: Seed of the bootstrap.
        confidence: Confidence of the interval.

    Returns:
        The coefficient with its BCa bootstrap interval, below 30 individuals with that of Fisher's transformation; no
        value where a sample is constant, not finite or shorter than 3.

    Raises:
        ValueError: If the shapes differ.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap, section 14.3 (BCa intervals).

    Example:
        >>> pearson([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]).value
        1.0
    """
    return _contrast([(first, second)], seed=seed, confidence=confidence)


def pearson_difference(first: ArrayLike, second: ArrayLike, common: ArrayLike, *, seed: int = 0) -> Estimate:
    """Estimate r(first, common) - r(second, common), two Pearson coefficients over the same individuals.

    The samples are resampled together, so that the interval takes into account that the coefficients depend on each
    other.

    Args:
        first: Numbers of shape (n,), of any unit.
        second: Numbers of shape (n,), one for each of `first`.
        common: Numbers of shape (n,), one for each of `first`.
        seed: Seed of the bootstrap.

    Returns:
        The difference with its BCa bootstrap interval, below 30 individuals with one from joint intervals of both
        coefficients; no value where a sample is constant, not finite or shorter than 3.

    Raises:
        ValueError: If the shapes differ.
    """
    return _contrast([(first, common)], [(second, common)], seed=seed)


def pearson_lead(
    first: Sequence[ArrayLike], others: Sequence[ArrayLike], common: ArrayLike, *, seed: int = 0
) -> Estimate:
    """Estimate max_i r(first_i, common) - max_j r(others_j, common), over the same individuals.

    Both maxima are taken anew in every resample. The basic bootstrap interval then takes into account that the largest
    coefficients are chosen after they were seen: the resamples exaggerate maxima as the sample does. Among equally good
    candidates, percentile and BCa intervals miss 0 up to ten times as often as they should.

    Args:
        first: Samples of shape (n,), at least one.
        others: Samples of shape (n,), at least one.
        common: Numbers of shape (n,), one for each individual.
        seed: Seed of the bootstrap.

    Returns:
        The difference with its basic bootstrap interval, below 30 individuals with one from joint intervals of all
        coefficients; no value where a sample is constant, not finite or shorter than 3.

    Raises:
        ValueError: If the shapes differ.

    References:
        Davison & Hinkley, Bootstrap Methods and their Application, section 5.2.
    """
    leading, following = [(each, common) for each in first], [(each, common) for each in others]
    return _contrast(leading, following, seed=seed, method="basic")


def pearson_change(before: Pair, after: Pair, *, seed: int = 0) -> Estimate:
    """Estimate by how much a Pearson coefficient of the same individuals changes: r(after) - r(before).

    Args:
        before: Two samples of shape (n,).
        after: Two samples of shape (n,) of the same individuals.
        seed: Seed of the bootstrap, in which all four samples are resampled together.

    Returns:
        The change with its interval, as `pearson_difference`; no value where a sample is constant, not finite or
        shorter than 3.

    Raises:
        ValueError: If the shapes differ.
    """
    return _contrast([after], [before], seed=seed)


def largest_pearson_change(before: Sequence[Pair], after: Sequence[Pair], *, seed: int = 0) -> Estimate:
    """Estimate max_i r(after_i) - max_j r(before_j), over the same individuals.

    Args:
        before: Pairs of samples of shape (n,), at least one.
        after: Pairs of samples of shape (n,), at least one.
        seed: Seed of the bootstrap.

    Returns:
        The change of the largest coefficient, with the interval of `pearson_lead`, which takes both maxima anew in
        every resample.

    Raises:
        ValueError: If the shapes differ.
    """
    return _contrast(after, before, seed=seed, method="basic")


def extreme_pearson(
    samples: Sequence[ArrayLike],
    common: ArrayLike,
    *,
    which: Which,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate the smallest or largest Pearson coefficient of several samples with a common one.

    Args:
        samples: Samples of shape (n,), at least one.
        common: Numbers of shape (n,), one for each individual.
        which: The end that is wanted.
        seed: Seed of the bootstrap.
        confidence: Confidence of the interval.

    Returns:
        The coefficient, with the interval of `pearson_lead`, which takes the extreme anew in every resample.

    Raises:
        ValueError: If the shapes differ.
    """
    pairs = [(each, common) for each in samples]
    return _contrast(pairs, which=which, seed=seed, confidence=confidence, method="basic")


def mean(
    sample: ArrayLike, *, confidence: float = CONFIDENCE, within: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Estimate the mean of a distribution from a sample.

    Args:
        sample: Independent numbers of shape (n,).
        confidence: Confidence of the interval.
        within: Ends of a range that holds all numbers, and so their mean.

    Returns:
        The mean with Student's interval, which is exact for normal numbers from n = 3 on, where intervals of the
        bootstrap would be too narrow; no value for n < 3 or numbers that are not finite.
    """
    (array,) = _samples((sample,))
    if len(array) < FEWEST:
        return unknown(_TOO_FEW)
    if not np.isfinite(array).all():
        return unknown("a sample has numbers that are not finite")
    value, deviation = float(array.mean()), float(array.std(ddof=1)) if np.ptp(array) else 0.0
    half = float(t.ppf((1 + confidence) / 2, len(array) - 1)) * deviation / len(array) ** 0.5
    return Estimate(value, max(value - half, within[0]), min(value + half, within[1]))


def mean_share(sample: ArrayLike) -> Estimate:
    """Estimate the mean of a distribution of shares.

    Args:
        sample: Independent shares, between 0 and 1, of shape (n,).

    Returns:
        The mean, with Student's interval within 0 and 1. Equal shares do not show how much others vary, and have the
        interval of Markov's inequality: P(all >= v) <= (mean / v)^n, and likewise above. For n ones it is the interval
        of Clopper and Pearson for n successes.
    """
    found = mean(sample, within=(0.0, 1.0))
    if found.value is None or np.ptp(sample) > 0:
        return found
    factor = ((1 - CONFIDENCE) / 2) ** (1 / np.size(sample))
    return Estimate(found.value, found.value * factor, 1 - (1 - found.value) * factor)


def median(sample: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the median of a distribution from a sample (n,).

    Args:
        sample: Independent numbers of shape (n,), which may be infinite.
        confidence: Confidence of the interval.

    Returns:
        The median, with the interval between two order statistics that covers the median of any distribution with at
        least this probability; at 95 % there is none for n < 6, and no value for n < 3.

    References:
        Conover, Practical Nonparametric Statistics, section 3.2.
    """
    (array,) = _samples((sample,))
    if len(array) < FEWEST:
        return unknown(_TOO_FEW)
    if np.isnan(array).any():
        return unknown("a sample has numbers that are not finite")
    interval: Any = quantile_test(array, p=0.5).confidence_interval(confidence)
    value = float(np.median(array))
    if not np.isfinite([value, interval.low, interval.high]).all():
        return Estimate(value if np.isfinite(value) else None, None, None, "too few numbers, or too many infinite ones")
    return Estimate(value, float(interval.low), float(interval.high))


def median_ratio(numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
    """Estimate the median of the ratios of paired numbers (n,), with the interval of `median`.

    Args:
        numerator: Numbers of shape (n,).
        denominator: Positive numbers of shape (n,), one for each of `numerator`.

    Returns:
        The median of numerator / denominator.

    Raises:
        ValueError: If the shapes differ.
    """
    top, bottom = _samples((numerator, denominator))
    if not (bottom > 0).all():
        return unknown("a denominator is not positive")
    return median(top / bottom)


def proportion(successes: int, total: int) -> Estimate:
    """Estimate a probability from independent trials, with Wilson's interval.

    Args:
        successes: Number of trials that succeeded.
        total: Number of trials.

    Returns:
        successes / total; no value without trials.

    References:
        Wilson, J. Amer. Statist. Assoc. 22 (1927) 209-212.

    Example:
        >>> proportion(10, 10).upper
        1.0
    """
    if not total:
        return unknown("there are no cases")
    interval = binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / total, float(interval.low), float(interval.high))


def extreme(estimates: Sequence[Estimate], *, which: Which) -> Estimate:
    """Return the smallest or largest of several numbers.

    If the intervals [l_k, u_k] hold jointly, the smallest number lies in [min l_k, min u_k], and the largest in
    [max l_k, max u_k].

    Args:
        estimates: At least one estimate, with intervals of `joint_confidence(len(estimates))`; with 95 % each, the
            result would have less.
        which: The end that is wanted.

    Returns:
        The extreme number. It is not determined if one of the numbers is not, since that may be the extreme one.
    """
    if (why := _undetermined(estimates)) is not None:
        return unknown(why)
    pick = min if which == "smallest" else max
    value, lower, upper = (pick(column) for column in zip(*_columns(estimates), strict=True))
    return Estimate(value, lower, upper)


def mean_of_independent(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of k independent numbers, with the interval that follows from theirs.

    The distances of the ends from the value are sqrt(sum_i (value_i - lower_i)^2) / k, and likewise above.

    Args:
        estimates: Estimates from different samples.

    Returns:
        The mean. It is not determined if one of the numbers is not: without it, it would be that of others.

    References:
        Zou & Donner, Statistics in Medicine 27 (2008) 1693-1702 (recovery of variance estimates from intervals).
    """
    if (why := _undetermined(estimates)) is not None:
        return unknown(why)
    values, lower, upper = np.array(_columns(estimates), dtype=np.float64).T
    value, below, above = values.mean(), np.hypot.reduce(values - lower), np.hypot.reduce(upper - values)
    return Estimate(float(value), float(value - below / len(values)), float(value + above / len(values)))


def difference_of_independent(first: Estimate, second: Estimate) -> Estimate:
    """Return the difference of two independent numbers, with the interval that follows from theirs.

    Args:
        first: An estimate.
        second: One from another sample.

    Returns:
        first - second, with the ends of the interval as in `mean_of_independent`.
    """
    if (why := _undetermined([first, second])) is not None:
        return unknown(why)
    (value, lower, upper), (other, other_lower, other_upper) = _columns([first, second])
    below, above = np.hypot(value - lower, other_upper - other), np.hypot(upper - value, other - other_lower)
    return Estimate(value - other, float(value - other - below), float(value - other + above))


def _columns(estimates: Sequence[Estimate]) -> list[tuple[Any, Any, Any]]:
    return [(each.value, each.lower, each.upper) for each in estimates]


def _undetermined(estimates: Sequence[Estimate]) -> str | None:
    """Return why not all numbers are determined, None if all are."""
    if not estimates:
        return "there are no cases"
    missing = [each for each in estimates if None in (each.value, each.lower, each.upper)]
    if not missing:
        return None
    reasons = dict.fromkeys(each.why or "no interval" for each in missing)
    return f"{len(missing)} of {len(estimates)} numbers are not determined: {', '.join(reasons)}"


def _samples(samples: Sequence[ArrayLike]) -> list[FloatArray]:
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"samples of shapes {[array.shape for array in arrays]}: one axis and one length are needed")
    return arrays


def _contrast(
    plus: Sequence[Pair],
    minus: Sequence[Pair] = (),
    *,
    which: Which = "largest",
    seed: int,
    confidence: float = CONFIDENCE,
    method: Method = "BCa",
) -> Estimate:
    """Estimate the extreme coefficient of some pairs less that of others, 0 if there are no others."""
    arrays = _samples([sample for pair in (*plus, *minus) for sample in pair])
    if len(arrays[0]) < FEWEST:
        return unknown(_TOO_FEW)
    if not all(np.isfinite(array).all() for array in arrays):
        return unknown("a sample has numbers that are not finite")
    if any(np.ptp(array) == 0 for array in arrays):
        return unknown("a sample is constant")
    contrast = Contrast(len(plus), np.maximum if which == "largest" else np.minimum)
    value = float(contrast(*arrays))
    lower, upper = contrast.interval(arrays, seed=seed, confidence=confidence, method=method)
    if not np.isfinite([value, lower, upper]).all():
        return unknown("too few of the numbers differ")
    return Estimate(value, lower, upper)
