"""Losses of real numbers and counts: squared error, Huber, Gaussian and Poisson likelihoods."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.loss_base import (
    IGNORED,
    CanonicalLoss,
    Loss,
    check_labels,
    check_numbers,
    check_range,
    num_rows,
    num_valid_labels,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


class Mse(CanonicalLoss):
    """Half the squared error: the mean over the data is 1/(2n) sum_i ||f(x_i) - y_i||^2.

    Class labels (int64) stand for one-hot y; label -100 is ignored.
    """

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for outputs (*samples, K) and targets of that shape, or labels (*samples)."""
        return self.gradient(outputs, targets).square().sum() / 2

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return f - y, and 0 where the target is ignored."""
        if targets.is_floating_point():
            return outputs - targets
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        one_hot = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        return (outputs - one_hot) * _valid(targets, outputs)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the direction itself, and 0 where the target is ignored."""
        return direction if targets.is_floating_point() else direction * _valid(targets, outputs)

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of rows of regression targets, or of labels that are not ignored."""
        return num_rows(targets) if targets.is_floating_point() else num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are finite real numbers (*sample_shape, num_outputs), or labels (*sample_shape,)."""
        if not targets.is_floating_point():
            check_labels(targets, sample_shape, num_outputs)
            return
        check_numbers(targets, sample_shape, num_outputs)


def _valid(targets: Tensor, outputs: Tensor) -> Tensor:
    """Return 1 for each valid label and 0 for each ignored one, of shape (*samples, 1)."""
    return (targets != IGNORED).unsqueeze(-1).to(outputs.dtype)


class RealLoss(Loss):
    """A loss with one row of real targets for each sample."""

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of rows of the targets."""
        return num_rows(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are finite real numbers (*sample_shape, num_outputs)."""
        check_numbers(targets, sample_shape, num_outputs)


class Huber(RealLoss):
    """Sum over outputs of r^2 / 2 where |r| <= delta, and of delta (|r| - delta / 2) beyond, with r = f - y.

    The second derivative jumps from 1 to 0 at |r| = delta; at this point it is 1, as for PyTorch's `clamp`.

    Args:
        delta: Size of residuals at which the loss becomes linear.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self._delta = delta

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for outputs and targets (*samples, K)."""
        residuals = outputs - targets
        clamped = residuals.clamp(-self._delta, self._delta)
        return (clamped * (residuals - clamped / 2)).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r, clamped to [-delta, delta]."""
        return (outputs - targets).clamp(-self._delta, self._delta)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return u where |r| <= delta, and 0 beyond."""
        return direction * ((outputs - targets).abs() <= self._delta).to(direction.dtype)

    def fisher_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return P(|r| <= delta) u for residuals with the density exp(-loss(r)) / Z, by E[psi^2] = E[psi']."""
        inner = math.sqrt(2 * math.pi) * math.erf(self._delta / math.sqrt(2))
        tails = 2 / self._delta * math.exp(-(self._delta**2) / 2)
        return direction * (inner / (inner + tails))


class GaussianNll(RealLoss):
    """The negative log-likelihood of independent normal distributions: 1/2 sum_k (s_k + (y_k - m_k)^2 exp(-s_k)).

    Outputs are the means m (K,) followed by the logarithms s (K,) of the variances; the constant log(2 pi) / 2 is left
    out. The loss is not convex: its second derivative in (m_k, s_k) has the determinant -r^2 exp(-2 s) / 2, r = m - y.
    """

    is_convex: ClassVar[bool] = False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for outputs (*samples, 2 K) and targets (*samples, K)."""
        mean, log_variance = outputs.chunk(2, dim=-1)
        return (log_variance + (mean - targets).square() * (-log_variance).exp()).sum() / 2

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r exp(-s) for the means, followed by (1 - r^2 exp(-s)) / 2 for the logarithms."""
        residual, precision = _residual_and_precision(outputs, targets)
        return torch.cat([residual * precision, (1 - residual.square() * precision) / 2], dim=-1)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return exp(-s) (u - r w) for the means and exp(-s) r (r w / 2 - u) for the logarithms, direction (u, w)."""
        residual, precision = _residual_and_precision(outputs, targets)
        mean_change, log_change = direction.chunk(2, dim=-1)
        scaled = residual * log_change
        return torch.cat(
            [precision * (mean_change - scaled), precision * residual * (scaled / 2 - mean_change)], dim=-1
        )

    def fisher_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return exp(-s) u for the means and w / 2 for the logarithms, direction (u, w)."""
        _, precision = _residual_and_precision(outputs, targets)
        mean_change, log_change = direction.chunk(2, dim=-1)
        return torch.cat([precision * mean_change, log_change / 2], dim=-1)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are finite real numbers (*sample_shape, num_outputs / 2)."""
        if num_outputs % 2:
            message = f"gaussian-nll needs a mean and a log variance for each target; {num_outputs} outputs are odd"
            raise InvalidProblemError(message)
        check_numbers(targets, sample_shape, num_outputs // 2)


def _residual_and_precision(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return r = m - y and exp(-s), each (*samples, K)."""
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean - targets, (-log_variance).exp()


class PoissonNll(RealLoss, CanonicalLoss):
    """Sum over outputs of exp(f) - y f: counts y of Poisson distributions with rates exp(f), without log y!."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for outputs and targets (*samples, K)."""
        return (outputs.exp() - targets * outputs).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return exp(f) - y."""
        return outputs.exp() - targets

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return exp(f) u."""
        return outputs.exp() * direction

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are numbers (*sample_shape, num_outputs) of at least 0."""
        super().check_targets(targets, sample_shape, num_outputs)
        check_range(targets, 0, math.inf, what="counts")
