"""What algorithms see of a matrix."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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
