"""Gauss quadrature and Ritz values from the tridiagonal matrix of Lanczos."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from curvature.algorithms.lanczos import Tridiagonal
from curvature.errors import NonFiniteError
from curvature.results import Quadrature, Reorthogonalisation, RitzValue

GHOST_FACTOR = 2.5
"""Without orthogonality a Ritz vector may be shorter than 1, so that its residual understates the distance."""


def node_error(matrix: Tridiagonal, product_error: float, reorthogonalisation: Reorthogonalisation) -> float:
    """How far errors of the products may move a node, in units of A: product_error times the norm of A, as it is known.

    What lies within it of another eigenvalue, or of zero, is not resolved, even where Lanczos stopped because all that
    was left was rounding. Without reorthogonalisation it grows like the root of the number of steps.

    Args:  product_error, ||A' v - A v|| / ||A|| of unit vectors v.
    Source:  Paige, Linear Algebra Appl. 34 (1980) 235-258.
    """
    growth = 1.0 if reorthogonalisation == "full" else sqrt(len(matrix.diagonal))
    return product_error * growth * max(matrix.scale, float(matrix.diagonal.abs().max()))


def gauss_quadrature(matrix: Tridiagonal, node_error: float = 0.0) -> Quadrature:
    """Nodes and weights of the spectral measure that Lanczos saw.

    For T = S diag(nodes) S^T and weights S[0]**2:  v^T p(H) v = sum(weights * p(nodes))
    for every polynomial p of degree < 2m. Residuals are remainder * S[-1], signed so that S[0] >= 0.

    Returns:  nodes (m,) ascending and residuals (m,), in units of A; weights (m,), dimensionless, sum 1.
    Raises:  NonFiniteError if the tridiagonal holds NaN or infinity.
    Source:  Golub & Welsch, Math. Comp. 23 (1969) 221-230.
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
) -> tuple[RitzValue, RitzValue]:
    """Smallest and largest Ritz value over all probes.

    The residual of a Ritz value is that of its node, plus `product_error` times the norm of A as far as that is known:
    no product is better than that, converged or not. Without reorthogonalisation it is 2.5 times as large and the
    error grows like the root of the number of steps. A ghost is a copy, so an extreme value is never a wrong one.

    Args:  scales, largest ||A q|| of each probe; product_error, that of the operator.
    Returns:  smallest, largest.
    Source:  Paige, Linear Algebra Appl. 34 (1980) 235-258, for the factor 2.5.
    """
    smallest, largest = [], []
    for quadrature, scale in zip(quadratures, scales, strict=True):
        nodes, residuals = quadrature.nodes, quadrature.residuals
        assert residuals is not None
        norm = max(scale, float(abs(nodes).max()))
        factor, growth = (1.0, 1.0) if reorthogonalisation == "full" else (GHOST_FACTOR, sqrt(len(nodes)))
        floor = product_error * norm * growth
        smallest.append(RitzValue(float(nodes[0]), factor * abs(float(residuals[0])) + floor))
        largest.append(RitzValue(float(nodes[-1]), factor * abs(float(residuals[-1])) + floor))
    return min(smallest, key=lambda ritz: ritz.value), max(largest, key=lambda ritz: ritz.value)


def _eigenpairs(matrix: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m,) ascending and eigenvectors (m, m), in columns, of T."""
    diagonal, off = matrix.diagonal, matrix.off_diagonal
    dense = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(dense.isfinite().all()):
        raise NonFiniteError("the tridiagonal matrix holds NaN or infinity")
    values, vectors = torch.linalg.eigh(dense)
    return values, vectors
