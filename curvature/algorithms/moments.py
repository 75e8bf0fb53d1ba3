"""Trace and Frobenius norm from the quadratures of random probes; numpy alone."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from curvature.errors import InvalidProblemError
from curvature.results import Estimate, Quadrature


def trace_and_frobenius(quadratures: Sequence[Quadrature], dim: int) -> tuple[Estimate, Estimate]:
    """tr A = P E[v^T A v] and ||A||_F = sqrt(P E[||A v||^2]) for v uniform on the unit sphere, where E[v v^T] = I / P.

    Both are moments that the Gauss rules hold exactly, so no further product is needed. Standard errors come from the
    variances 2 / (P + 2) (<lambda^2> - <lambda>^2) and 2 / (P + 2) (<lambda^4> - <lambda^2>^2) of one probe, <.> the
    mean over eigenvalues, estimated by the same rules: known for a single probe too.

    Args:  dim, P.
    Returns:  in the unit of A.
    Raises:  InvalidProblemError if there is no quadrature.
    Source:  Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with probes on the sphere.
    """
    if not quadratures:
        raise InvalidProblemError("a trace needs at least one probe")
    scale = max(max(float(np.abs(each.nodes).max()), _lone_residual(each)) for each in quadratures)
    if scale == 0:
        return Estimate(0.0, 0.0), Estimate(0.0, 0.0)
    first, second, fourth = np.mean([_moments(each, scale) for each in quadratures], axis=0)
    share = 2 / (len(quadratures) * (dim + 2))
    share = share / (1 - share)
    trace_error = dim * sqrt(share * max(second - first**2, 0))
    frobenius = sqrt(dim * second)
    # the error of a root: half that of its square, over the root
    frobenius_error = dim * sqrt(share * max(fourth - second**2, 0)) / (2 * frobenius)
    return Estimate(dim * first * scale, trace_error * scale), Estimate(frobenius * scale, frobenius_error * scale)


def _moments(quadrature: Quadrature, scale: float) -> tuple[float, float, float]:
    """v^T A^p v / scale^p for p = 1, 2 and 4; the last one of fewer than three steps is a lower bound."""
    nodes, weights = quadrature.nodes / scale, quadrature.weights
    second = float(weights @ nodes**2) + (_lone_residual(quadrature) / scale) ** 2
    return float(weights @ nodes), second, max(float(weights @ nodes**4), second**2)


def _lone_residual(quadrature: Quadrature) -> float:
    """||A v - node v|| of a single step, whose rule is exact to degree 1 only; otherwise 0."""
    lone = quadrature.residuals is not None and len(quadrature.nodes) == 1
    return abs(float(quadrature.residuals[0])) if lone and quadrature.residuals is not None else 0.0
