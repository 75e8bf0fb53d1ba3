"""What algorithms see of a matrix."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from curvature.cost.blocks import BLOCK_COLUMNS
from curvature.progress import Progress, ignore_progress


class SymmetricOperator(ABC):
    """A symmetric matrix A (P, P) that is known by its products; vectors live on `device` in `dtype`."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """P."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of vectors and products."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where vectors live."""

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """A v (P,) for v (P,)."""

    @abstractmethod
    def matmat(self, matrix: Tensor) -> Tensor:
        """A V (P, k) for V (P, k), in memory bounded independently of k but for the result."""

    def lower_triangle(self, progress: Progress = ignore_progress) -> Tensor:
        """A (P, P), float64, on `device`; what lies above the diagonal is undefined.

        Args:  progress, told as "products" after each block of columns.
        """
        matrix = torch.empty(self.dim, self.dim, dtype=torch.float64, device=self.device)
        for start in range(0, self.dim, BLOCK_COLUMNS):
            stop = min(start + BLOCK_COLUMNS, self.dim)
            block = torch.zeros(self.dim, stop - start, dtype=self.dtype, device=self.device)
            block[start:stop].fill_diagonal_(1)
            # columns go to rows, which are contiguous: the matrix is symmetric
            matrix[start:stop] = self.matmat(block).T
            progress("products", stop, self.dim)
        return matrix
