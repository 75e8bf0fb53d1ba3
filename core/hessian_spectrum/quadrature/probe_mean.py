"""Mean over random probes of v^T f(A) v, with its standard error and a 95 % band; requires only numpy."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from hessian_spectrum.quadrature.chi_square import degree_limits
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.radau_rules import Rule, compatible_rules
from hessian_spectrum.quadrature.results import Band, FloatArray, Quadrature

Rules = Callable[[Quadrature], Sequence[Rule]]
"""Returns rules that the measure of a probe is compatible with."""

MOST_PROBES_WITH_FURTHER_RULES = 16

TINY = 1e-290  # squares below lose digits
NEGLIGIBLE_SHARE = 1e-9  # of a probe: not even an unlucky one has so little of an eigenvalue

# Up to here the weight of a lone eigenvalue is too far from chi-square to count on a narrower one: bands of two to four
# eigenvalues held 67 to 90 %.
FEW_DIMENSIONS = 12

# By which share of itself an end of a band may be off for the rounding of what makes the curves.
CURVE_ROUNDING = 1e-7


class Moments(NamedTuple):
    """sum(weights * f(nodes)) and sum(weights * f(nodes)**2), for every f >= 0 of a curve."""

    mean: FloatArray  # (num_points,), or (num_clusters, num_points) of each cluster of nodes
    square: FloatArray  # of the same shape


class MomentBounds(NamedTuple):
    """Moments with the smallest and the largest values that f takes within the errors of the nodes."""

    least: Moments  # (num_clusters, num_points)
    largest: Moments  # (num_clusters, num_points)


class Curve(ABC):
    """A function f >= 0 for every point of a grid."""

    @abstractmethod
    def values(self, rule: Rule) -> Moments:
        """Moments (num_points,) of f at the nodes."""

    @abstractmethod
    def moments(self, rule: Rule, node_error: float) -> MomentBounds:
        """Moments of each cluster of nodes, whose positions are known to within `node_error`, in units of A."""


class ProbeMean(NamedTuple):
    """Estimate of tr f(A) / P for every f of a grid."""

    values: FloatArray  # (num_points,)
    standard_error: FloatArray  # (num_points,)
    band: Band


def probe_mean(
    quadratures: Sequence[Quadrature], dim: int, curve: Curve, further_rules: Rules | None = None
) -> ProbeMean:
    """Mean over probes by their Gauss rules, with its error.

    Probes are uniform on the sphere, so one estimate of tr f(A) / P has the variance 2 / (P + 2) (<f^2> - <f>^2), where
    <.> is the mean over eigenvalues, which the same quadratures estimate. This is far more accurate than the spread of
    a few probes, and it is known even for one.

    If k eigenvalues contribute f = h each, P <f> is h k, and the sum over n probes is distributed as h / P times
    chi-square with n k degrees of freedom. With the effective height h = <f^2> / <f> (Satterthwaite), in which the
    weight of an isolated eigenvalue cancels, the sum determines which k are compatible with it. Clusters of eigenvalues
    far from each other have separate heights, and limits that add up in squares: otherwise a small weight of one would
    hide its height behind that of the others.

    The band extends from the lower limit for the smallest moments to the upper limit for the largest moments that the
    `compatible_rules` of each probe and the errors of their nodes allow. It therefore shows where the steps or the
    products have not resolved f.

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        curve: The functions f, one for each point of a grid.
        further_rules: Further rules compatible with a probe; the average widening that they cause for the first 16
            probes is applied to all.

    Returns:
        Mean, standard error and band at each point of the grid.

    Raises:
        InvalidProblemError: If there is no quadrature.

    References:
        Satterthwaite, Biometrics Bulletin 2 (1946) 110-114.
    """
    if not quadratures:
        raise InvalidProblemError("at least one quadrature is needed")
    least, largest = _least_and_largest(quadratures, curve, further_rules)
    mean, square = _average(curve.values(Rule(each.nodes, each.weights)) for each in quadratures)
    share = 2 / (len(quadratures) * (dim + 2))  # variance of the mean in units of that of f over eigenvalues
    error = np.sqrt(share / (1 - share) * np.maximum(square - mean**2, 0))
    away = least.mean - confidence_limits(*least, len(quadratures), dim).lower
    beyond = confidence_limits(*largest, len(quadratures), dim).upper - largest.mean
    # not the root of a sum of squares, which underflow far out in a Gaussian
    lower = np.maximum(least.mean.sum(axis=0) - np.hypot.reduce(away, axis=0), 0)
    upper = largest.mean.sum(axis=0) + np.hypot.reduce(beyond, axis=0)
    return ProbeMean(mean, error, Band(lower * (1 - CURVE_ROUNDING), upper * (1 + CURVE_ROUNDING)))


def _least_and_largest(
    quadratures: Sequence[Quadrature], curve: Curve, further_rules: Rules | None
) -> tuple[Moments, Moments]:
    """Averages over the probes of the least and of the largest moments that the rules of each allow."""
    ends = _Average(), _Average()
    before: list[MomentBounds] = []  # of the probes with further rules; those of all could take gigabytes
    for index, quadrature in enumerate(quadratures):
        bounds = _bounds(quadrature, curve, compatible_rules(quadrature))
        for end, moments in zip(ends, bounds, strict=True):
            end.add(moments)
        if further_rules is not None and index < MOST_PROBES_WITH_FURTHER_RULES:
            before.append(bounds)
    least, largest = (end.moments for end in ends)
    if further_rules is None:
        return least, largest
    chosen = zip(quadratures, before, strict=False)
    after = [_bounds(each, curve, further_rules(each), start) for each, start in chosen]
    return (
        _moved(least, [each.least for each in before], [each.least for each in after]),
        _moved(largest, [each.largest for each in before], [each.largest for each in after]),
    )


def _bounds(
    quadrature: Quadrature, curve: Curve, rules: Sequence[Rule], known: MomentBounds | None = None
) -> MomentBounds:
    """Smallest and largest moments over all rules, and over the known bounds if there are any."""
    bounds = [curve.moments(rule, quadrature.node_error) for rule in rules]
    least, largest = known if known is not None else bounds.pop(0)
    for each in bounds:
        least = Moments(*map(np.minimum, least, each.least))
        largest = Moments(*map(np.maximum, largest, each.largest))
    return MomentBounds(least, largest)


def _moved(whole: Moments, before: Sequence[Moments], after: Sequence[Moments]) -> Moments:
    """The average over all probes, shifted by as much as that of some of them shifted."""
    old, new = _average(before), _average(after)
    mean = np.maximum(whole.mean + (new.mean - old.mean), 0)
    return Moments(mean, np.maximum(whole.square + (new.square - old.square), mean**2))


class _Average:
    """Running mean of the moments of probes."""

    def __init__(self) -> None:
        self._count, self._mean, self._square = 0, np.zeros(()), np.zeros(())

    def add(self, moments: Moments) -> None:
        """Include one more probe."""
        self._count += 1
        self._mean, self._square = self._mean + moments.mean, self._square + moments.square

    @property
    def moments(self) -> Moments:
        """The mean so far; a mean square is at least the square of the mean."""
        mean = self._mean / self._count
        return Moments(mean, np.maximum(self._square / self._count, mean**2))


def _average(moments: Iterable[Moments]) -> Moments:
    """Mean over probes."""
    average = _Average()
    for each in moments:
        average.add(each)
    return average.moments


def confidence_limits(
    mean: FloatArray, square: FloatArray, num_probes: int, dim: int, *, on_sphere: bool = True
) -> Band:
    """95 % confidence limits of <f>, for f >= 0.

    Args:
        mean: <f> from the probes, of any shape.
        square: <f^2> from the probes, of the same shape.
        num_probes: Number of probes.
        dim: Number of parameters P.
        on_sphere: Whether to use that the weights of a probe sum to 1, so that a value shared by most eigenvalues
            varies less than chi-square.

    Returns:
        Lower and upper limits, of the same shape.
    """
    # far out in a Gaussian the square underflows before the mean: the mean is small, and no more is known
    known = square > TINY
    degrees = np.full_like(mean, num_probes)
    np.divide(num_probes * dim * mean**2, square, out=degrees, where=known)
    low, high = degree_limits(degrees)
    high = np.maximum(high, num_probes / np.maximum(degrees, TINY))  # at least one eigenvalue
    narrowing = np.ones_like(mean)
    if on_sphere:
        share = np.ones_like(mean)
        np.divide(mean**2, square, out=share, where=known)
        sphere = dim / (dim + 2) if dim > FEW_DIMENSIONS else 1.0
        narrowing = np.sqrt(_largest_rest(1 - share, num_probes, dim) * sphere)
    lower, upper = mean * low**narrowing, mean * high**narrowing
    unknown = ~known & (mean > 0)
    return Band(np.where(unknown, 0.0, lower), np.where(unknown, np.maximum(upper, sqrt(TINY)), upper))


def _largest_rest(rest: FloatArray, num_probes: int, dim: int) -> FloatArray:
    """Upper limit of the share of eigenvalues that do not contribute, if the probes show some of them."""
    limits = rest * degree_limits(num_probes * dim * np.clip(rest, 0, 1))[1]
    upper: FloatArray = np.clip(np.maximum(limits, 1 / dim), 0, 1)  # at least one
    return np.where(rest > NEGLIGIBLE_SHARE, upper, 0.0)
