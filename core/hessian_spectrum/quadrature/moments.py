"""Trace and Frobenius norm from the quadratures of random probes; requires only numpy."""

from collections.abc import Iterator, Sequence
from math import hypot, sqrt

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.probe_mean import compatible_rules, confidence_limits
from hessian_spectrum.quadrature.results import Estimate, FloatArray, Interval, Quadrature

# What contributes numbers of one sign within this factor is one group of eigenvalues; groups end in the widest gap.
GROUP_RATIOS = (1.5, 3.0)

# By which limits are wider than those of independent groups that are known apart.
RESERVE = 1.05

# Steps from which on the spread of a probe's estimates is known, as far as an interval needs it.
LEAST_STEPS = 3
TOO_FEW_STEPS = f"fewer than {LEAST_STEPS} Lanczos steps do not tell how far probes may be off; take more steps"


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
    trace, frobenius = dim * first, sqrt(dim * second)
    trace_error = dim * sqrt(share * max(second - first**2, 0))
    # the error of a root: half that of its square, over the root
    frobenius_error = dim * sqrt(share * max(fourth - second**2, 0)) / (2 * frobenius)
    nuclear = dim * float(np.mean([each.weights @ np.abs(each.nodes) for each in quadratures])) / scale
    rounding = product_error * (nuclear + 2 * frobenius)
    if any(len(each.nodes) < LEAST_STEPS and _has_remainder(each) for each in quadratures):
        intervals = [Interval(None, None, TOO_FEW_STEPS)] * 2
    else:
        down, up = (dim * each + rounding for each in _widest_limits(quadratures, scale, 1, dim))
        lower, upper = (dim * each for each in _widest_limits(quadratures, scale, 2, dim))
        roots = [sqrt(max(each, 0)) for each in (dim * second - lower, dim * second + upper)]
        error = product_error * frobenius
        intervals = [
            Interval((trace - down) * scale, (trace + up) * scale),
            Interval(max(roots[0] - error, 0) * scale, (roots[1] + error) * scale),
        ]
    return (
        Estimate(trace * scale, trace_error * scale, intervals[0]),
        Estimate(frobenius * scale, frobenius_error * scale, intervals[1]),
    )


def _widest_limits(quadratures: Sequence[Quadrature], scale: float, power: int, dim: int) -> tuple[float, float]:
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
            down, up = hypot(down, away if sign > 0 else beyond), hypot(up, beyond if sign > 0 else away)
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
