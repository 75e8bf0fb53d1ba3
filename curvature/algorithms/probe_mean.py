"""Mean over random probes of v^T f(A) v, with its standard error and a 95 % band; numpy alone."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from curvature.algorithms.chi_square import degree_limits
from curvature.algorithms.rules import Rule, compatible_rules
from curvature.errors import InvalidProblemError
from curvature.results import Band, FloatArray, Quadrature

Moments = Callable[[Rule], tuple[FloatArray, FloatArray]]
"""Of one rule: sum(weights * f(nodes)) and sum(weights * f(nodes)**2), for every point of a grid."""


TINY = 1e-290  # squares below lose digits


class ProbeMean(NamedTuple):
    """Estimate of tr f(A) / P for every f of a grid."""

    values: FloatArray  # (num_points,)
    standard_error: FloatArray  # (num_points,)
    band: Band


def probe_mean(quadratures: Sequence[Quadrature], dim: int, moments: Moments) -> ProbeMean:
    """Mean over probes by their Gauss rules; what is known about its error.

    Probes are uniform on the sphere, so one estimate of tr f(A) / P has the variance 2 / (P + 2) (<f^2> - <f>^2), <.>
    the mean over eigenvalues, which the same quadratures estimate. That is far better than the spread of a few probes,
    and known even for one.

    Where k eigenvalues contribute f = h each, P <f> is h k, and the sum over n probes is distributed as h / P times
    chi-square with n k degrees of freedom. With the effective height h = <f^2> / <f> (Satterthwaite), in which the
    weight of a lone eigenvalue cancels, the sum tells which k are compatible with it.

    The band holds the 95 % intervals by all `compatible_rules`: where the steps have not resolved f, the rules
    disagree, and the band says so.

    Args:  dim, P; moments, for 0 <= f.
    Raises:  InvalidProblemError without a quadrature.
    Source:  Satterthwaite, Biometrics Bulletin 2 (1946) 110-114.
    """
    if not quadratures:
        raise InvalidProblemError("at least one quadrature is needed")
    means = _means_by_rule(quadratures, moments)
    intervals = [_interval(mean, square, len(quadratures), dim) for mean, square in means]
    mean, square = means[0]
    share = _variance_share(len(quadratures), dim)
    error = np.sqrt(share / (1 - share) * np.maximum(square - mean**2, 0))
    lower = np.minimum.reduce([interval.lower for interval in intervals])
    upper = np.maximum.reduce([interval.upper for interval in intervals])
    return ProbeMean(mean, error, Band(lower, upper))


def _means_by_rule(quadratures: Sequence[Quadrature], moments: Moments) -> list[tuple[FloatArray, FloatArray]]:
    """<f> and <f^2> by each of the compatible rules; a probe that has no further rules enters by its first."""
    sums: list[tuple[FloatArray, FloatArray]] = []
    for quadrature in quadratures:
        own = [moments(rule) for rule in compatible_rules(quadrature)]
        if not sums:
            sums = own
            continue
        # a probe that has fewer rules than the others is known exactly: its first stands for all
        pairs = zip_longest(sums, own)
        first, previous = own[0], sums[0]
        sums = [
            (total[0] + each[0], total[1] + each[1])
            for total, each in ((total or previous, each or first) for total, each in pairs)
        ]
    count = len(quadratures)
    return [(mean / count, square / count) for mean, square in sums]


def _interval(mean: FloatArray, square: FloatArray, num_probes: int, dim: int) -> Band:
    """95 % confidence limits of <f>."""
    # far out in a Gaussian the square underflows before the mean: one eigenvalue
    known = square > TINY
    degrees = np.full_like(mean, num_probes)
    np.divide(num_probes * dim * mean**2, square, out=degrees, where=known)
    low, high = degree_limits(degrees)
    high = np.maximum(high, num_probes / np.maximum(degrees, TINY))  # at least one eigenvalue
    # weights of a probe sum to 1, so that what most eigenvalues share varies less than chi-square
    share = np.ones_like(mean)
    np.divide(mean**2, square, out=share, where=known)
    narrowing = np.sqrt(np.clip(1 - np.where(known, share, 0), 0, 1) * dim / (dim + 2))
    return Band(mean * low**narrowing, mean * high**narrowing)


def _variance_share(num_probes: int, dim: int) -> float:
    """Variance of the mean over probes in units of the variance of f over eigenvalues; below 1."""
    return 2 / (num_probes * (dim + 2))
