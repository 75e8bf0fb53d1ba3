"""Gauss quadrature and Ritz values from the tridiagonal matrix of Lanczos."""

from collections.abc import Sequence
from math import hypot, isfinite, sqrt

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import Tridiagonal
from hessian_spectrum.curvature.algorithms.unseen import end_of_spectrum, overlap_of_probes
from hessian_spectrum.quadrature.errors import NonFiniteError
from hessian_spectrum.quadrature.results import Interval, Quadrature, Reorthogonalisation, RitzValue

GHOST_FACTOR = 2.5
"""Factor of residuals without orthogonality, where a Ritz vector may be shorter than 1."""

MISS_PROBABILITY = 0.025
"""Probability that the end of a spectrum lies beyond its interval."""

UNSEEN = "The steps are too few to bound what the probes have not seen."


def node_error(matrix: Tridiagonal, product_error: float, reorthogonalisation: Reorthogonalisation) -> float:
    """Largest displacement of a node by errors of the products, in units of A: product_error times the known norm of A.

    Eigenvalues that are closer than this to each other, or to zero, are not resolved, even if Lanczos stopped because
    only rounding was left. Without reorthogonalisation the displacement grows like the root of the number of steps.

    Args:
        matrix: Tridiagonal matrix of a probe.
        product_error: ||A' v - A v|| / ||A|| of unit vectors v.
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.

    Returns:
        The displacement, in units of A.

    References:
        Paige, Linear Algebra Appl. 34 (1980) 235-258.
    """
    growth = 1.0 if reorthogonalisation == "full" else sqrt(len(matrix.diagonal))
    return product_error * growth * max(matrix.scale, float(matrix.diagonal.abs().max()))


def gauss_quadrature(matrix: Tridiagonal, node_error: float = 0.0) -> Quadrature:
    """Nodes and weights of the spectral measure that Lanczos saw.

    For T = S diag(nodes) S^T and weights S[0]**2:  v^T p(H) v = sum(weights * p(nodes)) for every polynomial p of
    degree < 2m. Residuals are remainder * S[-1], signed so that S[0] >= 0.

    Args:
        matrix: Tridiagonal matrix T of a probe.
        node_error: Largest displacement of a node by errors of the products, in units of A.

    Returns:
        Nodes (m,) ascending and residuals (m,), in units of A; weights (m,), dimensionless, of sum 1.

    Raises:
        NonFiniteError: If the tridiagonal matrix contains NaN or infinity.

    References:
        Golub & Welsch, Math. Comp. 23 (1969) 221-230.
    """
    nodes, vectors = _eigenpairs(matrix)
    signs = torch.where(vectors[0] < 0, -1.0, 1.0)
    residuals = matrix.remainder * vectors[-1] * signs
    return Quadrature(nodes.numpy(), vectors[0].square().numpy(), residuals.numpy(), node_error)


def extreme_ritz_values(
    quadratures: Sequence[Quadrature],
    scales: Sequence[float],
    product_error: float,
    reorthogonalisation: Reorthogonalisation,
    dim: int,
) -> tuple[RitzValue, RitzValue]:
    """Smallest and largest Ritz value over all probes.

    The residual of a Ritz value is that of its node, plus the error of products as far as the norm of A is known,
    because no product is more accurate, converged or not. Without reorthogonalisation it is 2.5 times as large and the
    error grows like the root of the number of steps. A ghost is a copy, so an extreme value is never a wrong one.

    A residual concerns the nearest eigenvalue. The end of the spectrum is beyond the Ritz value, but only as far as all
    random probes together can have missed its eigenvector with a probability of 2.5 %; see `unseen`.

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
        growth = 1.0 if reorthogonalisation == "full" else sqrt(len(quadrature.nodes))
        floors.append(product_error * max(scale, float(abs(quadrature.nodes).max())) * growth)
    factor = 1.0 if reorthogonalisation == "full" else GHOST_FACTOR
    return _extreme(quadratures, floors, factor, dim, -1), _extreme(quadratures, floors, factor, dim, 1)


def _extreme(
    quadratures: Sequence[Quadrature], floors: Sequence[float], factor: float, dim: int, side: int
) -> RitzValue:
    """The last Ritz value on one side; `floors` are the errors of the probes' products, in units of A."""
    place = -1 if side > 0 else 0
    best = max(range(len(quadratures)), key=lambda probe: side * float(quadratures[probe].nodes[place]))
    value = float(quadratures[best].nodes[place])
    residuals = quadratures[best].residuals
    assert residuals is not None
    near, far = value - side * floors[best], _end(quadratures, floors, value, dim, side) + side * max(floors)
    if not isfinite(far):
        known = Interval(near, None, UNSEEN) if side > 0 else Interval(None, near, UNSEEN)
    else:
        known = Interval(min(near, far), max(near, far))
    return RitzValue(value, factor * abs(float(residuals[place])) + floors[best], known)


def _end(quadratures: Sequence[Quadrature], floors: Sequence[float], value: float, dim: int, side: int) -> float:
    """A point beyond which there is no eigenvalue, with a probability of 97.5 %."""
    parts, unit = [], 0.0
    for rule, floor in zip(quadratures, floors, strict=True):
        assert rule.residuals is not None
        factors = np.sqrt(rule.weights) * rule.residuals
        # an invariant subspace is closed except for what was taken for rounding
        parts.append((rule.nodes, factors, 0.0 if factors.any() else floor))
        unit = max(unit, float(np.ptp(rule.nodes)), float(abs(rule.nodes).max()), float(abs(factors).sum()))

    def presence(point: float) -> float:
        """Bound on the part of an eigenvector with this eigenvalue in all probes together."""
        shares = ((factors / (point - nodes)).sum() + dropped / (point - value) for nodes, factors, dropped in parts)
        return hypot(*map(float, shares))

    overlap = overlap_of_probes(dim, len(quadratures), MISS_PROBABILITY)
    return end_of_spectrum(presence, overlap, value, unit, side)


def _eigenpairs(matrix: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m,) ascending and eigenvectors (m, m), in columns, of T."""
    diagonal, off = matrix.diagonal, matrix.off_diagonal
    dense = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(dense.isfinite().all()):
        raise NonFiniteError("the tridiagonal matrix holds NaN or infinity")
    values, vectors = torch.linalg.eigh(dense)
    return values, vectors
