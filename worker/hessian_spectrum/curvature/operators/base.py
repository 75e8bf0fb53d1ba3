"""The interface through which algorithms access a matrix."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.planning.work import BLOCK_COLUMNS

PRODUCT_ROUNDINGS = 10
"""Machine epsilons by which products of norm 1 may be off where the numbers that make up the matrix are exact."""


@serializable()
@dataclass
class Triangle:
    """Half of a dense symmetric matrix, filled up to some step, with everything needed to fill the rest."""

    rows: Tensor  # (P, P) float64; one side of the diagonal counts, the other is undefined
    is_upper: bool  # which
    num_steps: int = 0  # done, in the operator's own order
    num_columns: int = 0  # about as many are done

    @property
    def lower(self) -> Tensor:
        """The matrix (P, P), right on and below the diagonal."""
        return self.rows.T if self.is_upper else self.rows


class SymmetricOperator(ABC):
    """A symmetric matrix A (P, P), defined by its products; vectors are on `device` in `dtype`."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number P of rows."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of vectors and products."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the vectors."""

    @property
    def product_error(self) -> float:
        """Bound on ||A' v - A v|| / ||A|| of products A' v for unit vectors v, from rounding and reduced precision."""
        return PRODUCT_ROUNDINGS * torch.finfo(self.dtype).eps

    @property
    def unreduced(self) -> "SymmetricOperator":
        """The same matrix with products entirely in the precision of the vectors, which may be much slower."""
        return self

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """A v (P,) for v (P,)."""

    @abstractmethod
    def matmat(self, matrix: Tensor) -> Tensor:
        """A V (P, k) for V (P, k), in memory that, apart from the result, is bounded independently of k."""

    def start_triangle(self) -> Triangle:
        """The dense matrix before its first product."""
        return Triangle(torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device), is_upper=False)

    def fill_triangle(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the triangle, in place, yielding after each step."""
        for start in range(triangle.num_steps * BLOCK_COLUMNS, self.dim, BLOCK_COLUMNS):
            stop = min(start + BLOCK_COLUMNS, self.dim)
            block = torch.zeros(self.dim, stop - start, dtype=self.dtype, device=self.device)
            block[start:stop].fill_diagonal_(1)
            # columns go to rows, which are contiguous: the matrix is symmetric
            triangle.rows[start:stop] = self.matmat(block).T
            triangle.num_steps, triangle.num_columns = triangle.num_steps + 1, stop
            yield
