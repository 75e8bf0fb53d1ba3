"""Gauss quadrature and Ritz values from the tridiagonal matrix of Lanczos."""

import torch
from torch import Tensor

from curvature.algorithms.lanczos import Tridiagonal
from curvature.errors import NonFiniteError
from curvature.results import RitzValue

PRODUCT_ROUNDINGS = 10
"""Machine epsilons by which products of norm 1 may be off; up to about 4 were seen against exact eigenvalues."""


def gauss_quadrature(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the spectral measure that Lanczos saw.

    For T = S diag(nodes) S^T and weights S[0]**2:  v^T p(H) v = sum(weights * p(nodes))
    for every polynomial p of degree < 2m.

    Args:  diagonal (m,), off_diagonal (m - 1,), float64, in loss per squared parameter.
    Returns:  nodes (m,) ascending, same unit; weights (m,), dimensionless, sum 1.
    Raises:  NonFiniteError if the tridiagonal holds NaN or infinity.
    Source:  Golub & Welsch, Math. Comp. 23 (1969) 221-230.
    """
    nodes, vectors = _eigenpairs(diagonal, off_diagonal)
    return nodes, vectors[0].square()


def extreme_ritz_values(tridiagonals: list[Tridiagonal], rounding: float) -> tuple[RitzValue, RitzValue]:
    """Smallest and largest Ritz value over all probes.

    The residual of a Ritz value with eigenvector s of T is |remainder * s_m|, plus `rounding` times 10 norms of A as
    far as the norm is known: no product is better than that, converged or not.

    Args:  rounding, machine epsilon of the products.
    Returns:  smallest, largest.
    Raises:  NonFiniteError if a tridiagonal holds NaN or infinity.
    """
    smallest, largest = [], []
    for matrix in tridiagonals:
        nodes, vectors = _eigenpairs(matrix.diagonal, matrix.off_diagonal)
        norm = max(matrix.scale, float(nodes.abs().max()))
        residuals = (matrix.remainder * vectors[-1]).abs() + PRODUCT_ROUNDINGS * rounding * norm
        smallest.append(RitzValue(float(nodes[0]), float(residuals[0])))
        largest.append(RitzValue(float(nodes[-1]), float(residuals[-1])))
    return min(smallest, key=lambda ritz: ritz.value), max(largest, key=lambda ritz: ritz.value)


def _eigenpairs(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m,) ascending and eigenvectors (m, m), in columns, of T."""
    matrix = torch.diag(diagonal) + torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    if not bool(matrix.isfinite().all()):
        raise NonFiniteError("the tridiagonal matrix holds NaN or infinity")
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors
