"""Confidence intervals of estimates from a few random probes, valid for every spectrum; `trace` uses them.

A quadratic form of a Gaussian vector is a sum of independent chi-square numbers, weighted by the eigenvalues. The law
has the heaviest tails if one eigenvalue has all the weight; limits derived from that case hold for every other one.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from scipy.special import chdtri, gammainc, ndtri, stdtrit

from hessian_spectrum.quadrature.results import Estimate, Interval

LEVEL = 0.96
"""Coverage in the worst case: one percent more than promised, for what the laws of Gaussian vectors neglect."""

LEVEL_ABOVE, LEVEL_BELOW = (1 + LEVEL) / 2, (1 - LEVEL) / 2
"""Probabilities of exceeding the lower and the upper limit."""

LARGEST_FACTOR = 1e9

NORMAL_QUANTILE = float(ndtri(0.975))

SINGLE_FACTOR = 1 / float(ndtri(1 - LEVEL / 2))
"""Largest deviation of a normal number, in multiples of its size."""


class Limits(NamedTuple):
    """The two ends of an interval."""

    lower: float
    upper: float


class SumEstimate(NamedTuple):
    """Estimate of tr B for positive semidefinite B, from probes."""

    value: float
    standard_error: float | None  # None: not known
    limits: Limits

    def plus(self, known: float) -> "SumEstimate":
        """Return the estimate plus a known number."""
        lower, upper = self.limits
        return SumEstimate(self.value + known, self.standard_error, Limits(lower + known, upper + known))

    def times(self, factor: float) -> "SumEstimate":
        """Return the estimate in another unit."""
        error = None if self.standard_error is None else self.standard_error * factor
        return SumEstimate(self.value * factor, error, Limits(*(limit * factor for limit in self.limits)))


@lru_cache(maxsize=4096)
def deviation_factor(degrees: float) -> float:
    """Return k with |X - tr A| <= k F sqrt(2 / n) for means X of v^T A v and F^2 of ||A v||^2 over n Gaussian probes v.

    A single eigenvalue is the worst case, in which X / tr A = (F / tr A)^2 is 1/n times chi-square with n degrees of
    freedom. k is 14.1 for one probe, 4.7 for two, 2.4 for ten, and tends to a quantile of the normal distribution.

    Args:
        degrees: n > 0; not an integer if probes depend on each other.

    Returns:
        k, dimensionless.
    """
    low, high = 0.0, math.log(LARGEST_FACTOR)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _chance_within(math.exp(middle), degrees) >= LEVEL else (middle, high)
    return math.exp(high)


def _chance_within(factor: float, degrees: float) -> float:
    """Return the probability P(|x - 1| <= factor sqrt(2 x / n)) for n x chi-square with n degrees of freedom."""
    half = factor / math.sqrt(2 * degrees)
    upper, lower = (math.hypot(half, 1) + half) ** 2, (math.hypot(half, 1) + half) ** -2
    return float(gammainc(degrees / 2, degrees * upper / 2) - gammainc(degrees / 2, degrees * lower / 2))


def sum_estimate(total: float, root_square: float | None, *, degrees: float, freedom: float, dim: int) -> SumEstimate:
    """Return the trace tr B for positive semidefinite B, from a mean over probes.

    If one eigenvalue has all the weight the mean is chi-square, and limits in proportion to it hold for every other B
    too. They are wide. If tr B^2 is known, limits from the deviation that it implies are narrower. Their factors are
    those of Student's t, and at least as large above as a single eigenvalue needs, in which case `root_square` is
    proportional to it.

    Args:
        total: Mean over `degrees` probes.
        root_square: Estimate of sqrt(tr B^2), with `freedom` degrees of freedom; None if unknown.
        degrees: Number of probes, not an integer if they depend on each other.
        freedom: Degrees of freedom of `root_square`.
        dim: Dimension of the space of the probes.

    Returns:
        The estimate with its standard error and limits.

    References:
        Szekely & Bakirov, Probab. Theory Relat. Fields 126 (2003) 184-202, for the tails of such sums.
    """
    low, high = (float(chdtri(degrees, share)) / degrees for share in (LEVEL_ABOVE, LEVEL_BELOW))
    lower, upper = total / high, total / low
    if root_square is None or freedom <= 0:
        return SumEstimate(total, None, Limits(lower, upper))
    error = math.sqrt(2 / degrees) * root_square
    student = float(stdtrit(freedom, LEVEL_ABOVE))
    single = (1 / low - 1) * math.sqrt((degrees + 2) / 2)
    reach = error * small_dimension(dim)
    limits = Limits(max(lower, total - student * reach), min(upper, total + max(student, single) * reach))
    return SumEstimate(total, error * spread_factor(freedom), limits)


def root_estimate(square: SumEstimate, unit: float, product_error: float) -> Estimate:
    """Return the square root of an estimate, times a unit.

    Args:
        square: Estimate of the square.
        unit: Factor of the root.
        product_error: Relative error that is added.

    Returns:
        The root with its interval.
    """
    root = math.sqrt(square.value)
    rounding = product_error * root * unit
    lower, upper = (math.sqrt(max(limit, 0.0)) * unit for limit in square.limits)
    interval = widened(root * unit, Limits(lower, upper), rounding, floor=0.0)
    if square.standard_error is None:
        return Estimate(root * unit, None, interval)
    # the error of a root: half that of its square, over the root
    error = square.standard_error / (2 * root) * unit if root > 0 else 0.0
    return Estimate(root * unit, combined_error(error, rounding), interval)


def exact_estimate(value: float, rounding: float, floor: float = -math.inf) -> Estimate:
    """Return a number that is known up to the error of the products."""
    return Estimate(value, combined_error(0.0, rounding), widened(value, Limits(value, value), rounding, floor=floor))


def widened(value: float, limits: Limits, rounding: float, *, floor: float = -math.inf) -> Interval:
    """Return the interval, which contains the value, widened by the error of the products; not below `floor`."""
    return Interval(max(min(limits.lower, value) - rounding, floor), max(limits.upper, value) + rounding)


def combined_error(standard_error: float, rounding: float) -> float:
    """Return the standard error including that of the products, which `rounding` bounds."""
    return math.hypot(standard_error, rounding / NORMAL_QUANTILE)


def spread_factor(freedom: float) -> float:
    """Return the factor by which to widen a standard error that was estimated with the given degrees of freedom.

    Widened by it, 1.96 standard errors contain 95 %, as under Student's t.

    Args:
        freedom: Degrees of freedom; 0 counts as 1.

    Returns:
        The factor, >= 1.
    """
    return float(stdtrit(max(freedom, 1.0), 0.975)) / NORMAL_QUANTILE


def student_factor(freedom: float) -> float:
    """Return the number of standard errors, before widening, that bound a number following Student's t."""
    return float(stdtrit(freedom, LEVEL_ABOVE))


def small_dimension(dim: int) -> float:
    """Return the factor that widens intervals for probes on a sphere of few dimensions; in one, nothing is random."""
    return (dim + 1) / max(dim - 1, 1)
