"""Conversion between operators and dense matrices."""

import torch
from torch import Tensor

from hessian_spectrum.curvature.operators.base import SymmetricOperator, Triangle
from hessian_spectrum.curvature.progress import Progress, ignore_progress
from hessian_spectrum.quadrature.errors import InvalidProblemError, NonFiniteError

TILE = 512  # edge of the square tiles that are copied at once


class DenseOperator(SymmetricOperator):
    """A given symmetric matrix (P, P) as an operator.

    Raises:
        InvalidProblemError: If the matrix is not square and exactly symmetric.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not torch.equal(matrix, matrix.T):
            raise InvalidProblemError(f"a symmetric matrix is needed, not one of shape {tuple(matrix.shape)}")
        self._matrix = matrix

    @property
    def dim(self) -> int:
        """Number P of rows."""
        return len(self._matrix)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self._matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """A v (P,)."""
        return self._matrix @ vector

    def matmat(self, matrix: Tensor) -> Tensor:
        """A V (P, k)."""
        return self._matrix @ matrix


def assemble(operator: SymmetricOperator, progress: Progress = ignore_progress) -> Tensor:
    """Dense A (P, P), float64, exactly symmetric, on the operator's device, from products with the identity.

    Besides the result, memory holds what the operator needs for a block of columns.

    Args:
        operator: The matrix A.
        progress: Called with phase "products" after each block of columns.

    Returns:
        The dense matrix.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    triangle = operator.start_triangle()
    for _ in operator.fill_triangle(triangle):
        progress("products", triangle.num_columns, operator.dim)
    return mirrored(triangle)


def mirrored(triangle: Triangle) -> Tensor:
    """The whole matrix (P, P), in the memory of its half.

    Args:
        triangle: A completely filled half; it is overwritten.

    Returns:
        The dense matrix.

    Raises:
        NonFiniteError: If an entry of the half is NaN or infinite.
    """
    matrix = triangle.lower
    _mirror(matrix)
    return matrix


def _mirror(matrix: Tensor) -> None:
    """Copy the lower triangle to the upper one, tile by tile, without a second matrix."""
    for row in range(0, len(matrix), TILE):
        rows = slice(row, row + TILE)
        for column in range(0, row, TILE):
            columns = slice(column, column + TILE)
            matrix[columns, rows] = _finite(matrix[rows, columns]).T
        corner = _finite(matrix[rows, rows].tril())
        matrix[rows, rows] = corner + corner.tril(-1).T


def _finite(tile: Tensor) -> Tensor:
    if not bool(tile.isfinite().all()):
        raise NonFiniteError("a matrix-vector product holds NaN or infinity")
    return tile
