"""Standard errors and 95 % bands of means over random probes of v^T f(A) v; requires only numpy.

A probe determines its spectral measure up to further steps: `compatible_rules` are quadrature rules that agree with all
that its Lanczos run determines. `degree_limits` are confidence limits for a number of degrees of freedom.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from math import lgamma, sqrt
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import Band, FloatArray, Quadrature

QUANTILE = 0.975
NORMAL_QUANTILE = 1.959963984540054

# Limits are interpolated between these degrees of freedom. Above 100 Wilson's and Hilferty's cube is good to 10^-5.
FEW_DEGREES = np.geomspace(0.01, 100, 240)
MANY_DEGREES = np.geomspace(103, 1e12, 300)

SMALLEST_LOG = -800.0  # of x: the lower quantile of 0.01 degrees
LARGEST_LOG = 700.0  # of nu / x: nearly infinite

NEIGHBOUR_SHIFTS = (-1.0, 0.0, 1.0)

# Nodes whose residual is smaller than this share of the largest are converged: no rule moves them.
CONVERGED_SHARE = 1e-9

# A rule is left out when the node that it was made for holds less than this number of eigenvalues.
NEGLIGIBLE_COUNT = 0.02

MOST_PROBES_WITH_FURTHER_RULES = 16

LEAST_WEIGHT = 1e-28  # of a node of a bordered rule: less is the square of rounding errors of its eigenvector

TINY = 1e-290  # squares below lose digits
NEGLIGIBLE_SHARE = 1e-9  # of a probe: not even an unlucky one has so little of an eigenvalue

# Up to here the weight of a lone eigenvalue is too far from chi-square to count on a narrower one: bands of two to four
# eigenvalues held 67 to 90 %.
FEW_DIMENSIONS = 12

# By which share of itself an end of a band may be off for the rounding of what makes the curves.
CURVE_ROUNDING = 1e-7


def degree_limits(value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95 % confidence limits of nu / x for x drawn from the chi-square distribution with nu degrees of freedom.

    nu_lower solves P(chi^2 >= x) = 2.5 %, nu_upper solves P(chi^2 <= x) = 2.5 %. Both are interpolated with a relative
    error of 10^-3.

    Args:
        value: x >= 0, of any shape; may be infinite.

    Returns:
        nu_lower / x and nu_upper / x, of the same shape; both tend to 1 for large x.

    References:
        Garwood, Biometrika 28 (1936) 437-442, for limits of this kind.
    """
    return _degree_limit(value, -1), _degree_limit(value, 1)


def _degree_limit(value: FloatArray, side: int) -> FloatArray:
    """The lower of `degree_limits` for side -1, the upper one for side 1."""
    with np.errstate(divide="ignore"):
        logarithm = np.log(value)
    limit: FloatArray = np.exp(np.minimum(np.interp(logarithm, *_tables()[side > 0]), LARGEST_LOG))
    return limit


@cache
def _tables() -> list[tuple[FloatArray, FloatArray]]:
    """Tables of log x and log(nu / x), ascending in x, for the 97.5 % and 2.5 % quantiles x of each nu."""
    nu = np.append(FEW_DEGREES, MANY_DEGREES)
    tables = []
    for probability, sign in ((QUANTILE, 1.0), (1 - QUANTILE, -1.0)):
        spread = 2 / (9 * MANY_DEGREES)
        many = np.log(MANY_DEGREES) + 3 * np.log(1 - spread + sign * NORMAL_QUANTILE * np.sqrt(spread))
        quantiles = np.append(_log_quantiles(FEW_DEGREES, probability), many)
        tables.append((quantiles, np.log(nu) - quantiles))
    return tables


def _log_quantiles(degrees: FloatArray, probability: float) -> FloatArray:
    """Values of log x with P(chi^2_nu <= x) = probability, by bisection."""
    lower, upper = np.full(len(degrees), SMALLEST_LOG), np.full(len(degrees), np.log(200.0))
    for _ in range(50):
        centre = (lower + upper) / 2
        below = _distribution(centre, degrees) < probability
        lower, upper = np.where(below, centre, lower), np.where(below, upper, centre)
    middle: FloatArray = (lower + upper) / 2
    return middle


def _distribution(log_value: FloatArray, degrees: FloatArray) -> FloatArray:
    """P(chi^2_nu <= x) = (x/2)^a e^(-x/2) / Gamma(a + 1) (1 + (x/2) / (a + 1) + ...) with a = nu / 2."""
    a, x = degrees / 2, np.exp(log_value) / 2
    term = np.ones_like(x)
    total = term.copy()
    k = 0
    while float((term / total).max()) > 1e-13:
        k += 1
        term = term * x / (a + k)
        total += term
    log_gamma = np.array([lgamma(each + 1) for each in a])
    result: FloatArray = total * np.exp(a * (log_value - np.log(2)) - x - log_gamma)
    return result


class Rule(NamedTuple):
    """A quadrature rule sum(weights * f(nodes)) for v^T f(A) v."""

    nodes: FloatArray  # (m,) ascending
    weights: FloatArray  # (m,) >= 0, sum 1


# Several curves, each in parts, are made of the same quadratures.
_known_rules: WeakKeyDictionary[Quadrature, tuple[Rule, ...]] = WeakKeyDictionary()


def compatible_rules(quadrature: Quadrature) -> tuple[Rule, ...]:
    """The Gauss rule of a probe, and three others with the same moments.

    A further step would border T by the remainder beta and an unknown coefficient a. Every a gives a rule that is exact
    to degree 2m like that of the probe's own measure (Gauss and Radau rules), and as a varies over all numbers its
    nodes sweep the gaps between those of the Gauss rule (a = infinity). Converged nodes stay in place. With a = alpha +
    (-1, 0, 1) beta, where alpha is the last coefficient, the four sets of nodes are equally spaced in the middle of a
    spectrum without gaps. Where the rules disagree, the steps have not resolved the measure.

    Args:
        quadrature: Gauss quadrature of the probe.

    Returns:
        The four rules; the Gauss rule alone if residuals are unknown or the subspace is invariant.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 6, for the rules.
    """
    rules = _known_rules.get(quadrature)
    if rules is None:
        rules = _known_rules[quadrature] = _compatible_rules(quadrature)
    return rules


def _compatible_rules(quadrature: Quadrature) -> tuple[Rule, ...]:
    gauss = Rule(quadrature.nodes, quadrature.weights)
    largest = _largest_residual(quadrature)
    if quadrature.residuals is None or largest == 0:
        return (gauss,)
    scaled = quadrature.residuals / largest  # squares of the residuals themselves may underflow
    beta = largest * float(np.linalg.norm(scaled))
    alpha = float(quadrature.nodes @ scaled**2) / float(scaled @ scaled)
    return (gauss, *_bordered_rules(quadrature, alpha + np.array(NEIGHBOUR_SHIFTS) * beta))


def rules_through(quadrature: Quadrature, places: FloatArray, dim: int) -> tuple[Rule, ...]:
    """Compatible rules that have a node at each of the given places.

    Such a rule puts as much weight on its place as any measure with the probe's moments can. The coefficient that
    borders T for it is a = x + sum_j residual_j^2 / (node_j - x), and the weight on x is the squared overlap of
    (residual_j / (x - node_j), 1), normalised, with the probe.

    Args:
        quadrature: Gauss quadrature of the probe.
        places: Positions x of shape (n,), in units of A.
        dim: Number of parameters P.

    Returns:
        At most n rules; those that would give their place a weight of less than 0.02 eigenvalues are omitted.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 6; Krein & Nudelman, The Markov Moment Problem
        and Extremal Problems, 1977, for canonical representations.
    """
    residuals = quadrature.residuals
    if residuals is None or _largest_residual(quadrature) == 0:
        return ()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        components = residuals / (places[:, None] - quadrature.nodes)
        coefficients = places - components @ residuals
        weights = (components @ np.sqrt(quadrature.weights)) ** 2 / (1 + (components**2).sum(axis=1))
        useful = np.isfinite(coefficients) & (weights * dim > NEGLIGIBLE_COUNT)
    return _bordered_rules(quadrature, coefficients[useful])


def _largest_residual(quadrature: Quadrature) -> float:
    return 0.0 if quadrature.residuals is None else float(np.abs(quadrature.residuals).max())


def _bordered_rules(quadrature: Quadrature, coefficients: FloatArray) -> tuple[Rule, ...]:
    """Rules of T with one more row and column, for each last coefficient (n,)."""
    residuals = quadrature.residuals
    assert residuals is not None
    moving = np.abs(residuals) > CONVERGED_SHARE * _largest_residual(quadrature)
    count = int(moving.sum())
    bordered = np.zeros((count + 1, count + 1))
    np.fill_diagonal(bordered[:-1, :-1], quadrature.nodes[moving])
    bordered[-1, :-1] = bordered[:-1, -1] = residuals[moving]
    start = np.append(np.sqrt(quadrature.weights[moving]), 0.0)  # the probe, in the basis of the nodes
    still = (quadrature.nodes[~moving], quadrature.weights[~moving])
    rules = []
    for coefficient in coefficients:  # one at a time: each takes as much memory as the dense T
        bordered[-1, -1] = coefficient
        nodes, vectors = np.linalg.eigh(bordered)
        weights = without_rounding((start @ vectors) ** 2)
        rules.append(_sorted(np.append(still[0], nodes), np.append(still[1], weights)))
    return tuple(rules)


def without_rounding(weights: FloatArray) -> FloatArray:
    """Return the weights, of any shape, with 0 for those that are rounding errors.

    A node with the weight 1e-34 would be taken for an eigenvalue that a probe hardly sees.

    Args:
        weights: Squared products of unit vectors.
    """
    return np.where(weights < LEAST_WEIGHT, 0.0, weights)


def _sorted(nodes: FloatArray, weights: FloatArray) -> Rule:
    order = nodes.argsort(kind="stable")
    return Rule(nodes[order], weights[order])


Rules = Callable[[Quadrature], Sequence[Rule]]
"""Returns rules that the measure of a probe is compatible with."""


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
    quadratures: Sequence[Quadrature], *, dim: int, curve: Curve, further_rules: Rules | None = None
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
    limit = partial(confidence_limit, num_probes=len(quadratures), dim=dim)
    away = least.mean - limit(least.mean, least.square, side=-1)
    beyond = limit(largest.mean, largest.square, side=1) - largest.mean
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
        bounds = _bounds(quadrature, curve, rules=compatible_rules(quadrature))
        for end, moments in zip(ends, bounds, strict=True):
            end.add(moments)
        if further_rules is not None and index < MOST_PROBES_WITH_FURTHER_RULES:
            before.append(bounds)
    least, largest = (end.moments for end in ends)
    if further_rules is None:
        return least, largest
    chosen = zip(quadratures, before, strict=False)
    after = [_bounds(each, curve, rules=further_rules(each), known=start) for each, start in chosen]
    return (
        _moved(least, [each.least for each in before], [each.least for each in after]),
        _moved(largest, [each.largest for each in before], [each.largest for each in after]),
    )


def _bounds(
    quadrature: Quadrature, curve: Curve, *, rules: Sequence[Rule], known: MomentBounds | None = None
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
    mean: FloatArray, square: FloatArray, *, num_probes: int, dim: int, on_sphere: bool = True
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
    lower, upper = (
        confidence_limit(mean, square, num_probes=num_probes, dim=dim, side=side, on_sphere=on_sphere)
        for side in (-1, 1)
    )
    return Band(lower, upper)


def confidence_limit(
    mean: FloatArray, square: FloatArray, *, num_probes: int, dim: int, side: int, on_sphere: bool = True
) -> FloatArray:
    """The lower (side -1) or upper (side 1) of `confidence_limits`, with the arguments of that."""
    # far out in a Gaussian the square underflows before the mean: the mean is small, and no more is known
    known = square > TINY
    degrees = np.full_like(mean, num_probes)
    np.divide(num_probes * dim * mean**2, square, out=degrees, where=known)
    factor = _degree_limit(degrees, side)
    if side > 0:
        factor = np.maximum(factor, num_probes / np.maximum(degrees, TINY))  # at least one eigenvalue
    if on_sphere:
        share = np.ones_like(mean)
        np.divide(mean**2, square, out=share, where=known)
        sphere = dim / (dim + 2) if dim > FEW_DIMENSIONS else 1.0
        factor = factor ** np.sqrt(_largest_rest(1 - share, num_probes, dim) * sphere)
    limit = mean * factor
    unknown = ~known & (mean > 0)
    return np.where(unknown, np.maximum(limit, sqrt(TINY)) if side > 0 else 0.0, limit)


def _largest_rest(rest: FloatArray, num_probes: int, dim: int) -> FloatArray:
    """Upper limit of the share of eigenvalues that do not contribute, if the probes show some of them."""
    limits = rest * _degree_limit(num_probes * dim * np.clip(rest, 0, 1), 1)
    upper: FloatArray = np.clip(np.maximum(limits, 1 / dim), 0, 1)  # at least one
    return np.where(rest > NEGLIGIBLE_SHARE, upper, 0.0)
