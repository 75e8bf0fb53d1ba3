"""Half the mean squared error."""

import torch
from torch import Tensor

from hessian_spectrum.curvature.losses.base import IGNORED, Loss, check_labels, check_numbers, num_valid_labels


class Mse(Loss):
    """One term per sample: 1/2 ||f - y||^2, so that the mean is 1/(2n) sum_i ||f(x_i) - y_i||^2.

    Class labels (int64) stand for one-hot y; label -100 is ignored.
    """

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the terms for outputs (*samples, K) and targets of the same shape, or labels (*samples)."""
        return self.gradient(outputs, targets).square().sum() / 2

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """F - y, 0 where the target is ignored."""
        if targets.is_floating_point():
            return outputs - targets
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        one_hot = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        return (outputs - one_hot) * _valid(targets, outputs)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """The direction itself, 0 where the target is ignored."""
        return direction if targets.is_floating_point() else direction * _valid(targets, outputs)

    def num_terms(self, targets: Tensor) -> int:
        """Rows of regression targets, or labels that are not ignored."""
        return targets[..., 0].numel() if targets.is_floating_point() else num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Targets are finite real numbers (*sample_shape, num_outputs), or labels (*sample_shape,)."""
        if not targets.is_floating_point():
            check_labels(targets, sample_shape, num_outputs)
            return
        check_numbers(targets, sample_shape, num_outputs)


def _valid(targets: Tensor, outputs: Tensor) -> Tensor:
    """1 for each valid label, 0 for each ignored one (*samples, 1)."""
    return (targets != IGNORED).unsqueeze(-1).to(outputs.dtype)


LOSSES = {"mse": Mse}
