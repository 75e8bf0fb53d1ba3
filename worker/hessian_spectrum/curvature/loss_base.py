"""The interface of losses, and the checks of their targets."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad, jvp

from hessian_spectrum.quadrature.exceptions import InvalidProblemError

IGNORED = -100
"""Label of targets that count for nothing, as in PyTorch."""


class Loss(ABC):
    """A sum of one term per valid target; `EmpiricalRisk` takes the mean over the whole data.

    Attributes:
        is_convex: Whether the loss is convex in the outputs, whatever the targets are.
    """

    is_convex: ClassVar[bool] = True

    @abstractmethod
    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms, a scalar that is twice differentiable in `outputs` (..., K)."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of `total` with respect to the outputs (..., K), which is differentiable."""
        return grad(self.total)(outputs, targets)  # type: ignore[no-any-return]

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the product of the second derivative of `total` in the outputs with `direction`, each (..., K)."""
        return jvp(lambda at: self.gradient(at, targets), (outputs,), (direction,))[1]  # type: ignore[no-any-return]

    def fisher_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return F u for u = `direction`, each (..., K), where F is the Fisher information of each target's outputs.

        F = E[g g^T] over targets that are drawn from the distribution whose negative logarithm the loss is, where g is
        the gradient at the drawn target. It does not depend on the targets, except for which of them are valid, and for
        their weights.

        Args:
            outputs: Outputs f, of shape (..., K).
            targets: Targets, which say what is ignored.
            direction: u, of the shape of the outputs.

        Raises:
            InvalidProblemError: If the loss belongs to no distribution.
        """
        raise InvalidProblemError("the loss is not the negative logarithm of a distribution: it has no Fisher matrix")

    def gradient_outer_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return r <r, u> for each target, with its gradient r and u = `direction`, each (..., K)."""
        residual = self.gradient(outputs, targets)
        return residual * (residual * direction).sum(dim=-1, keepdim=True)

    @abstractmethod
    def num_terms(self, targets: Tensor) -> int:
        """Return the number of valid targets."""

    def weight(self, targets: Tensor) -> float:
        """Return the weight of a batch in the mean: the number of valid targets, or the sum of their weights."""
        return self.num_terms(targets)

    @abstractmethod
    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that the loss is defined for these targets and outputs (*sample_shape, num_outputs).

        Args:
            targets: Targets of the outputs.
            sample_shape: Shape of the outputs without their last axis.
            num_outputs: Length of their last axis.

        Raises:
            InvalidProblemError: If it is not; the message says why.
        """


class CanonicalLoss(Loss):
    """A loss whose second derivative in the outputs does not depend on the target: that is the Fisher information, too.

    These are the negative logarithms of exponential families in their natural parameters.

    References:
        Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020), section 9.2.
    """

    def fisher_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the product with the second derivative, which equals the Fisher information."""
        return self.hessian_product(outputs, targets, direction)


def check_labels(labels: Tensor, sample_shape: tuple[int, ...], num_classes: int) -> None:
    """Check that labels are int64 of shape `sample_shape`, each in 0 .. num_classes - 1 or -100, which is ignored.

    Args:
        labels: Class labels or tokens.
        sample_shape: Shape of the labels.
        num_classes: Number of classes.

    Raises:
        InvalidProblemError: If they are not; the message says why.
    """
    if labels.dtype != torch.int64:
        raise InvalidProblemError(f"class labels must be int64, not {labels.dtype}")
    if tuple(labels.shape) != sample_shape:
        raise InvalidProblemError(
            f"labels must have the shape of the samples, {sample_shape}, not {tuple(labels.shape)}"
        )
    valid = labels[labels != IGNORED]
    if valid.numel() and (int(valid.min()) < 0 or int(valid.max()) >= num_classes):
        raise InvalidProblemError(f"labels outside 0 .. {num_classes - 1} (the model has {num_classes} outputs)")


def num_valid_labels(labels: Tensor) -> int:
    """Return the number of labels that are not ignored."""
    return int((labels != IGNORED).sum())


def check_numbers(targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
    """Check that targets are finite real numbers of shape (*sample_shape, num_outputs).

    Args:
        targets: Regression targets.
        sample_shape: Shape of the outputs without their last axis.
        num_outputs: Length of their last axis.

    Raises:
        InvalidProblemError: If they are not; the message says why.
    """
    expected = (*sample_shape, num_outputs)
    if not targets.is_floating_point() or tuple(targets.shape) != expected:
        message = f"targets must be real numbers {expected}, not {tuple(targets.shape)} of {targets.dtype}"
        raise InvalidProblemError(message)
    if not bool(targets.isfinite().all()):
        raise InvalidProblemError("targets hold NaN or infinity")


def num_rows(targets: Tensor) -> int:
    """Return the number of rows of real targets (..., K)."""
    return targets[..., 0].numel()


def check_range(targets: Tensor, lowest: float, highest: float, *, what: str, ignorable: bool = False) -> None:
    """Check that real targets lie between two numbers.

    Args:
        targets: Real targets.
        lowest: The smallest allowed number.
        highest: The largest allowed number.
        what: The targets, for the message.
        ignorable: Whether -100 is allowed, too.

    Raises:
        InvalidProblemError: If a target lies outside.
    """
    outside = (targets < lowest) | (targets > highest)
    if ignorable:
        outside &= targets != IGNORED
    if bool(outside.any()):
        allowed = f"from {lowest:g} to {highest:g}" if highest < float("inf") else f"of at least {lowest:g}"
        raise InvalidProblemError(f"{what} must be numbers {allowed}, not {float(targets[outside][0]):g}")
