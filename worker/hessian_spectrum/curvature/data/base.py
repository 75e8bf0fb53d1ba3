"""Samples: inputs with their targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a data set; integer targets are class labels or tokens, floating-point targets are regression values.

    Args:
        inputs: Inputs of shape (n, ...).
        targets: Targets of shape (n, ...).

    Raises:
        InvalidProblemError: If there is no sample, or the numbers of inputs and targets differ.
    """

    inputs: Tensor  # (n, ...)
    targets: Tensor  # (n, ...)

    def __post_init__(self) -> None:
        if self.inputs.ndim == 0 or self.targets.ndim == 0 or len(self.inputs) != len(self.targets):
            shapes = f"{tuple(self.inputs.shape)} and {tuple(self.targets.shape)}"
            raise InvalidProblemError(f"inputs and targets must have the same number of samples, not shapes {shapes}")
        if len(self.inputs) == 0:
            raise InvalidProblemError("a dataset needs at least one sample")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, dtype: torch.dtype, device: torch.device) -> "Dataset":
        """Return the same samples on `device`, real numbers as `dtype`; integers keep their type."""
        return Dataset(_cast(self.inputs, dtype, device), _cast(self.targets, dtype, device))

    def split(self, batch_size: int | None) -> "tuple[Dataset, ...]":
        """Split the samples, in their order, into micro-batches.

        Args:
            batch_size: Number of samples of each micro-batch; the last one may be smaller. None keeps all in one.

        Returns:
            The micro-batches.

        Raises:
            InvalidProblemError: If the batch size is below 1.
        """
        if batch_size is None:
            return (self,)
        if batch_size < 1:
            raise InvalidProblemError(f"a batch needs at least one sample, not {batch_size}")
        bounds = [(start, start + batch_size) for start in range(0, len(self), batch_size)]
        return tuple(Dataset(self.inputs[start:stop], self.targets[start:stop]) for start, stop in bounds)

    def take(self, indices: Tensor) -> "Dataset":
        """Return the samples at `indices` (k,), in that order."""
        indices = indices.to(self.inputs.device)
        return Dataset(self.inputs[indices], self.targets[indices])


def _cast(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
