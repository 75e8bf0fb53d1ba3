"""Products and factors of matrices."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x^T W_k y + b_k for each output k."""
    product: Tensor = torch.einsum("...i,kij,...j->...k", x, weight, y)
    return product if bias is None else product + bias


def cholesky(A: Tensor, upper: bool = False) -> Tensor:
    """Return L with A = L L^T, or its transpose."""
    factor: Tensor = torch.linalg.cholesky(A, upper=upper)
    return factor


def triangular_solve(
    b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the solution X of A X = b or A^T X = b, where only one triangle of A is read, and return A."""
    matrix = A.mT if transpose else A
    solution = torch.linalg.solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    return solution, A.clone()


OPERATORS: dict[str, Callable[..., Any]] = {
    "bilinear": bilinear,
    "cholesky": cholesky,
    "triangular_solve": triangular_solve,
}
