"""Estimates from the quadratures of random probes: trace, Frobenius norm, and the ends of the spectrum.

The bounds on eigenvalues that random vectors missed hold with a stated probability of error. Let u be the unit
eigenvector of the largest eigenvalue l of A, and X the orthonormal block of random vectors with which a Krylov run
began. After any number of steps A V = V T + Q C, so that V^T u = (l - T)^-1 C^T Q^T u, and the part of u in X, whose
probability of being small is known, is

    X^T u = F(l) Q^T u,   F(l) = sum_i s_i c_i^T / (l - t_i),

with the Ritz values t_i, the rows s_i of their vectors that belong to X, and their couplings c_i to Q. F falls with the
distance of l from the Ritz values as the polynomial of the run does: if |F(l)| is below the lower bound of |X^T u|,
there is no such l. Thick restarts keep Q, so that a run with restarts has the product of such functions. None of this
depends on the spectrum, or on convergence of the run. Rounding errors act as further random excitations, which make no
component smaller than it would have been.

References:
    van Dorsselaer, Hochstenbach & van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000) 837-852, for one vector.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.error_bands import compatible_rules, confidence_limits
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import (
    Estimate,
    FloatArray,
    Interval,
    Quadrature,
    Reorthogonalisation,
    RitzValue,
)

# What contributes numbers of one sign within this factor is one group of eigenvalues; groups end in the widest gap.
GROUP_RATIOS = (1.5, 3.0)

# By which limits are wider than those of independent groups that are known apart.
RESERVE = 1.05

# Steps from which on the spread of a probe's estimates is known, as far as an interval needs it.
LEAST_STEPS = 3

_TIE = 1e-14
"""Difference of Ritz values of two probes, over the largest magnitude, up to which they are the same."""

TOO_FEW_STEPS = f"fewer than {LEAST_STEPS} Lanczos steps do not tell how far probes may be off; take more steps"

GHOST_FACTOR = 2.5
"""Factor of residuals without orthogonality, where a Ritz vector may be shorter than 1."""

MISS_PROBABILITY = 0.025
"""Probability that the end of a spectrum lies beyond its interval."""

UNBOUNDED = "There are too few steps to bound the eigenvalues that the probes missed."

GRID_POINTS = 12  # beyond the point in question at which a bound must hold, too: of a block it need not be monotonous
BISECTIONS = 60


def trace_and_frobenius(
    quadratures: Sequence[Quadrature], dim: int, product_error: float = 0.0
) -> tuple[Estimate, Estimate]:
    """Estimates of tr A = P E[v^T A v] and ||A||_F = sqrt(P E[||A v||^2]) for v uniform on the unit sphere.

    There E[v v^T] = I / P. Both are moments that the Gauss rules reproduce exactly, so no further product is needed.
    Standard errors come from the variances 2 / (P + 2) (<lambda^2> - <lambda>^2) and 2 / (P + 2) (<lambda^4> -
    <lambda^2>^2) of one probe, where <.> is the mean over eigenvalues, estimated by the same rules; they are known for
    a single probe, too. The intervals are those of `mean_limits`, widened by the errors of the products: for A' = A + E
    with ||E v|| <= e ||A||, the trace is off by at most e (sum |lambda| + 2 ||A||_F).

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        product_error: Relative error e of the products, dimensionless.

    Returns:
        Trace and Frobenius norm, in the unit of A.

    Raises:
        InvalidProblemError: If there is no quadrature.

    References:
        Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with probes on the sphere.
    """
    if not quadratures:
        raise InvalidProblemError("a trace needs at least one probe")
    scale = max(max(float(np.abs(each.nodes).max()), _lone_residual(each)) for each in quadratures)
    if scale == 0:
        zero = Estimate(0.0, 0.0, Interval(0.0, 0.0))
        return zero, zero
    first, second, fourth = map(float, np.mean([_moments(each, scale) for each in quadratures], axis=0))
    share = 2 / (len(quadratures) * (dim + 2))
    share = share / (1 - share)
    trace, frobenius = dim * first, math.sqrt(dim * second)
    trace_error = dim * math.sqrt(share * max(second - first**2, 0))
    # the error of a root: half that of its square, over the root
    frobenius_error = dim * math.sqrt(share * max(fourth - second**2, 0)) / (2 * frobenius) if frobenius else 0.0
    nuclear = dim * float(np.mean([each.weights @ np.abs(each.nodes) for each in quadratures])) / scale
    rounding = product_error * (nuclear + 2 * frobenius)
    if any(len(each.nodes) < LEAST_STEPS and _has_remainder(each) for each in quadratures):
        intervals = [Interval(None, None, TOO_FEW_STEPS)] * 2
    else:
        down, up = (dim * each + rounding for each in _widest_limits(quadratures, scale, power=1, dim=dim))
        lower, upper = (dim * each for each in _widest_limits(quadratures, scale, power=2, dim=dim))
        roots = [math.sqrt(max(each, 0)) for each in (dim * second - lower, dim * second + upper)]
        error = product_error * frobenius
        intervals = [
            Interval((trace - down) * scale, (trace + up) * scale),
            Interval(max(roots[0] - error, 0) * scale, (roots[1] + error) * scale),
        ]
    return (
        Estimate(trace * scale, trace_error * scale, intervals[0]),
        Estimate(frobenius * scale, frobenius_error * scale, intervals[1]),
    )


def _widest_limits(quadratures: Sequence[Quadrature], scale: float, *, power: int, dim: int) -> tuple[float, float]:
    """Widest `mean_limits` of (lambda / scale)^power over the rules that are compatible with the probes.

    A Gauss rule of two steps does not determine the spread of squares; rules with one more node do.

    Args:
        quadratures: Gauss quadratures, one for each probe.
        scale: Unit of the eigenvalues.
        power: Exponent.
        dim: Number of parameters P.

    Returns:
        Distances of the limits below and above the mean.
    """
    rules = [compatible_rules(each) for each in quadratures]
    limits = []
    for index in range(max(len(each) for each in rules)):
        chosen = [each[min(index, len(each) - 1)] for each in rules]
        values = np.concatenate([(rule.nodes / scale) ** power for rule in chosen])
        weights = np.concatenate([rule.weights for rule in chosen])
        limits.append(mean_limits(values, weights, num_probes=len(rules), dim=dim))
    downs, ups = zip(*limits, strict=True)
    return max(downs), max(ups)


def mean_limits(values: FloatArray, weights: FloatArray, *, num_probes: int, dim: int) -> tuple[float, float]:
    """Distances of the 95 % confidence limits of <f> below and above the mean of num_probes rules.

    The values of f are counted from their mean, because the weights of a probe, whose sum is 1, cannot misjudge the
    mean itself. The deviations are divided, sign by sign, into groups of similar size. If an isolated eigenvalue has
    drawn a small weight, its group still shows its size, which the spread of all values together would not. The weights
    of groups are nearly independent, so their limits are added in squares.

    Args:
        values: f at the nodes of all rules, of shape (n,).
        weights: Weights of shape (n,), which sum to num_probes.
        num_probes: Number of rules.
        dim: Number of parameters P.

    Returns:
        Distances below and above the mean, in the unit of f.
    """
    rest = values - weights @ values / num_probes
    down, up = 0.0, 0.0
    for sign in (1, -1):
        for group in _groups(sign * rest):
            mean = np.array([weights[group] @ np.abs(rest[group])]) / num_probes
            square = np.array([weights[group] @ rest[group] ** 2]) / num_probes
            limits = confidence_limits(mean, square, num_probes=num_probes, dim=dim, on_sphere=False)
            away, beyond = float((mean - limits.lower)[0]), float((limits.upper - mean)[0])
            down, up = math.hypot(down, away if sign > 0 else beyond), math.hypot(up, beyond if sign > 0 else away)
    return RESERVE * down, RESERVE * up


def _groups(values: FloatArray) -> Iterator[NDArray[np.intp]]:
    """Indices of the positive values by group, from the largest values on."""
    order = values.argsort(kind="stable")[::-1]
    order = order[values[order] > 0]
    with np.errstate(over="ignore"):
        ratios = values[order[:-1]] / values[order[1:]]
    start = 0
    while start < len(order):
        below = values[order[start]] / values[order[start:]]
        first = int(np.searchsorted(below, GROUP_RATIOS[0], side="right"))
        last = int(np.searchsorted(below, GROUP_RATIOS[1], side="right"))
        if first < len(below):
            # between the value before `first` and that before `last` + 1: the widest gap
            gaps = ratios[start + first - 1 : start + last]
            first += int(gaps.argmax())
        yield order[start : start + first]
        start += first


def _moments(quadrature: Quadrature, scale: float) -> tuple[float, float, float]:
    """Moments v^T A^p v / scale^p for p = 1, 2 and 4; with fewer than three steps the last one is a lower bound."""
    nodes, weights = quadrature.nodes / scale, quadrature.weights
    second = float(weights @ nodes**2) + (_lone_residual(quadrature) / scale) ** 2
    return float(weights @ nodes), second, max(float(weights @ nodes**4), second**2)


def _has_remainder(quadrature: Quadrature) -> bool:
    return quadrature.residuals is not None and float(np.abs(quadrature.residuals).max()) > quadrature.node_error


def _lone_residual(quadrature: Quadrature) -> float:
    """Residual ||A v - node v|| of a single step, whose rule is exact to degree 1 only; 0 for more steps."""
    lone = quadrature.residuals is not None and len(quadrature.nodes) == 1
    return abs(float(quadrature.residuals[0])) if lone and quadrature.residuals is not None else 0.0


def extreme_ritz_values(
    quadratures: Sequence[Quadrature],
    scales: Sequence[float],
    *,
    product_error: float,
    reorthogonalisation: Reorthogonalisation,
    dim: int,
) -> tuple[RitzValue, RitzValue]:
    """Return the smallest and largest Ritz value over all probes.

    The residual of a Ritz value is that of its node, plus the error of products as far as the norm of A is known,
    because no product is more accurate, converged or not. Without reorthogonalisation it is 2.5 times as large and the
    error grows like the root of the number of steps. A ghost is a copy, so an extreme value is never a wrong one.

    A residual concerns the nearest eigenvalue. The end of the spectrum is beyond the Ritz value, but only as far as all
    random probes together can have missed its eigenvector with a probability of 2.5 %.

    Args:
        quadratures: Quadratures of independent probes, uniform on the sphere, with residuals.
        scales: Largest ||A q|| of each probe.
        product_error: Error of the products, relative to ||A||.
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.
        dim: Number of parameters P.

    Returns:
        Smallest and largest Ritz value.

    References:
        Paige, Linear Algebra Appl. 34 (1980) 235-258, for the factor 2.5.
    """
    floors = []
    for quadrature, scale in zip(quadratures, scales, strict=True):
        growth = 1.0 if reorthogonalisation == "full" else math.sqrt(len(quadrature.nodes))
        floors.append(product_error * max(scale, float(abs(quadrature.nodes).max())) * growth)
    factor = 1.0 if reorthogonalisation == "full" else GHOST_FACTOR
    smallest, largest = (_extreme(quadratures, floors, factor=factor, dim=dim, side=side) for side in (-1, 1))
    return smallest, largest


def _extreme(
    quadratures: Sequence[Quadrature], floors: Sequence[float], *, factor: float, dim: int, side: int
) -> RitzValue:
    """Return the last Ritz value on one side; `floors` are the errors of the probes' products, in units of A."""
    index = -1 if side > 0 else 0
    ends = np.array([[each.nodes[index] for each in quadratures]], dtype=float)
    residuals = np.array([[_residuals(each)[index] for each in quadratures]], dtype=float)
    scales = np.array([max(float(np.abs(each.nodes).max()) for each in quadratures)])
    best = int(extreme_probes(ends, residuals, scales=scales, side=side)[0])
    value = side * float((side * ends).max())
    near = value - side * floors[best]
    far = _end(quadratures, floors, value=value, dim=dim, side=side) + side * max(floors)
    if not math.isfinite(far):
        known = Interval(near, None, UNBOUNDED) if side > 0 else Interval(None, near, UNBOUNDED)
    else:
        known = Interval(min(near, far), max(near, far))
    return RitzValue(value, factor * abs(float(residuals[0, best])) + floors[best], known)


def _residuals(quadrature: Quadrature) -> FloatArray:
    assert quadrature.residuals is not None
    return quadrature.residuals


def extreme_probes(values: FloatArray, residuals: FloatArray, *, scales: FloatArray, side: int) -> NDArray[np.intp]:
    """Return the probe that has converged most, of those that share the last Ritz value, for each of B matrices.

    Args:
        values: Last Ritz values of the probes on this side, of shape (B, k).
        residuals: Residuals of these, of shape (B, k).
        scales: Largest magnitudes of Ritz values, of shape (B,).
        side: 1 for the largest, -1 for the smallest.

    Returns:
        The indices (B,) of the probes: of values that differ by rounding alone, the one with the smallest residual.
    """
    farthest = (side * values).max(axis=1) - _TIE * scales
    candidates: FloatArray = np.where(side * values >= farthest[:, None], np.abs(residuals), np.inf)
    chosen: NDArray[np.intp] = candidates.argmin(axis=1)
    return chosen


def _end(quadratures: Sequence[Quadrature], floors: Sequence[float], *, value: float, dim: int, side: int) -> float:
    """Return a point beyond which there is no eigenvalue, with a probability of 97.5 %."""
    parts, unit = [], 0.0
    for rule, floor in zip(quadratures, floors, strict=True):
        assert rule.residuals is not None
        factors = np.sqrt(rule.weights) * rule.residuals
        # an invariant subspace is closed except for what was taken for rounding
        parts.append((rule.nodes, factors, 0.0 if factors.any() else floor))
        unit = max(unit, float(np.ptp(rule.nodes)), float(abs(rule.nodes).max()), float(abs(factors).sum()))

    def presence(point: float) -> float:
        """Return a bound on the part of an eigenvector with this eigenvalue in all probes together."""
        shares = ((factors / (point - nodes)).sum() + dropped / (point - value) for nodes, factors, dropped in parts)
        return math.hypot(*map(float, shares))

    overlap = overlap_of_probes(dim, len(quadratures), MISS_PROBABILITY)
    return end_of_spectrum(presence, overlap, end=value, unit=unit, side=side)


def overlap_of_probes(dim: int, count: int, chance: float) -> float:
    """Return a lower bound on |X^T u| with this error probability, if the columns of X are independent unit vectors."""
    dim = max(dim, 3)  # the density is not bounded below 3 dimensions, as in `overlap_of_block`
    of_one = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)
    return math.exp((math.log(chance) + math.lgamma(count / 2 + 1)) / count - of_one)


def excludes(bound: Callable[[float], float], overlap: float, *, point: float, end: float, side: int) -> bool:
    """Return whether there is no eigenvalue at `point` or beyond it.

    Args:
        bound: Returns a bound on |X^T u| for an eigenvalue at a point beyond all Ritz values.
        overlap: Lower bound on |X^T u|.
        point: Point to check.
        end: The last Ritz value on this side.
        side: 1 for the upper end of the spectrum, -1 for the lower one.

    Returns:
        Whether eigenvalues are excluded.
    """
    if not side * (point - end) > 0:
        return False
    return all(bound(each) <= overlap for each in _beyond(point, end))


def end_of_spectrum(bound: Callable[[float], float], overlap: float, *, end: float, unit: float, side: int) -> float:
    """Return a point beyond which there is no eigenvalue.

    Args:
        bound: Returns a bound on |X^T u| for an eigenvalue at a point beyond all Ritz values.
        overlap: Lower bound on |X^T u|.
        end: The last Ritz value on this side.
        unit: Scale of Ritz values and couplings; 0 if all of them are 0.
        side: 1 for the upper end of the spectrum, -1 for the lower one.

    Returns:
        The point; infinite if nothing is known.
    """
    if unit == 0:
        return end
    far = unit
    while not excludes(bound, overlap, point=end + side * far, end=end, side=side):
        far *= 4
        if not far < 1e60 * unit or not math.isfinite(end + far):
            return side * math.inf
    near = 0.0
    for _ in range(BISECTIONS):
        # geometric means: the distance may be as small as a rounding error of the width
        middle = math.sqrt(near) * math.sqrt(far) if near > 0 else far / 1024
        if middle < 1e-18 * unit or not near < middle < far:
            break
        near, far = (
            (near, middle) if excludes(bound, overlap, point=end + side * middle, end=end, side=side) else (middle, far)
        )
    return end + side * far


def _beyond(point: float, end: float) -> Iterator[float]:
    distance = point - end
    for step in range(GRID_POINTS):
        yield end + distance * 2.0 ** (step / 2)
