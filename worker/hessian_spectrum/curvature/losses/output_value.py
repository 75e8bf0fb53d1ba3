"""The model's output as its own loss."""

import torch
from torch import Tensor

from hessian_spectrum.curvature.losses.base import Loss
from hessian_spectrum.quadrature.errors import InvalidProblemError


class OutputValue(Loss):
    """One term per sample: the output f itself, of models with one output; targets (n, 1) only count the samples."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the outputs (n, 1)."""
        return outputs.sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(outputs)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Zeros: the loss is linear in the output."""
        return torch.zeros_like(direction)

    def num_terms(self, targets: Tensor) -> int:
        """Samples."""
        return len(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Targets are (*sample_shape, 1), of any value."""
        if num_outputs != 1:
            raise InvalidProblemError(f"a value needs one output, not {num_outputs}")
        if tuple(targets.shape) != (*sample_shape, 1):
            raise InvalidProblemError(f"targets have shape {tuple(targets.shape)}, the outputs {(*sample_shape, 1)}")
