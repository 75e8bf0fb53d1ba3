"""Operators as dense matrices, both ways."""

import torch
from torch import Tensor

from curvature.cost import BLOCK_COLUMNS
from curvature.errors import InvalidProblemError, NonFiniteError
from curvature.operators.base import SymmetricOperator
from curvature.progress import Progress, ignore_progress

TILE = 1024  # edge of the square tiles that are symmetrised at once


class DenseOperator(SymmetricOperator):
    """A given symmetric matrix (P, P) as an operator.

    Raises:  InvalidProblemError if it is not square and exactly symmetric.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not torch.equal(matrix, matrix.T):
            raise InvalidProblemError(f"a symmetric matrix is needed, not one of shape {tuple(matrix.shape)}")
        self._matrix = matrix

    @property
    def dim(self) -> int:
        """P."""
        return len(self._matrix)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Where the matrix lives."""
        return self._matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """A v (P,)."""
        return self._matrix @ vector

    def matmat(self, matrix: Tensor) -> Tensor:
        """A V (P, k)."""
        return self._matrix @ matrix


def assemble(operator: SymmetricOperator, progress: Progress = ignore_progress) -> Tensor:
    """Dense (A + A^T)/2 (P, P), float64, on the operator's device, from P products with the columns of the identity.

    Beside the result it holds two blocks of `BLOCK_COLUMNS` columns and what the operator needs.

    Raises:  NonFiniteError if a product holds NaN or infinity.
    """
    dim, dtype, device = operator.dim, operator.dtype, operator.device
    matrix = torch.empty(dim, dim, dtype=torch.float64, device=device)
    for start in range(0, dim, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, dim)
        block = torch.zeros(dim, stop - start, dtype=dtype, device=device)
        block[start:stop].fill_diagonal_(1)
        # columns go to rows, which are contiguous: the matrix is symmetric
        matrix[start:stop] = operator.matmat(block).T
        if not bool(matrix[start:stop].isfinite().all()):
            raise NonFiniteError(f"a matrix-vector product among columns {start} .. {stop - 1} holds NaN or infinity")
        progress("products", stop, dim)
    _symmetrise(matrix)
    return matrix


def _symmetrise(matrix: Tensor) -> None:
    """Replace A by (A + A^T)/2 tile by tile, without a second matrix."""
    for row in range(0, len(matrix), TILE):
        for column in range(row, len(matrix), TILE):
            upper = matrix[row : row + TILE, column : column + TILE]
            lower = matrix[column : column + TILE, row : row + TILE]
            mean = (upper + lower.T) / 2
            upper.copy_(mean)
            lower.copy_(mean.T)
