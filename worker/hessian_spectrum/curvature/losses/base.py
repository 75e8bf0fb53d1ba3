"""What every loss offers: a sum over targets, so that any split of the data adds up to the same."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.func import grad, jvp

from hessian_spectrum.quadrature.errors import InvalidProblemError

IGNORED = -100


class Loss(ABC):
    """A sum of one term per valid target; the mean over the whole data is taken by `EmpiricalRisk`."""

    @abstractmethod
    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the terms, a scalar; twice differentiable in `outputs` (..., K)."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """D total / d outputs (..., K), differentiable once more."""
        return grad(self.total)(outputs, targets)  # type: ignore[no-any-return]

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """(d^2 total / d outputs^2) u (..., K) for u = `direction` (..., K)."""
        return jvp(lambda at: self.gradient(at, targets), (outputs,), (direction,))[1]  # type: ignore[no-any-return]

    @abstractmethod
    def num_terms(self, targets: Tensor) -> int:
        """Number of valid targets: the weight of a batch."""

    @abstractmethod
    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Make sure that the loss is defined for outputs (*sample_shape, num_outputs).

        Raises:
            InvalidProblemError: Says what does not fit.
        """


def check_labels(labels: Tensor, sample_shape: tuple[int, ...], num_classes: int) -> None:
    """Make sure that `labels` are int64 (*sample_shape,), each in 0 .. num_classes - 1 or -100 (ignored).

    Raises:
        InvalidProblemError: Says what does not fit.
    """
    if labels.dtype != torch.int64:
        raise InvalidProblemError(f"class labels must be int64, not {labels.dtype}")
    if tuple(labels.shape) != sample_shape:
        raise InvalidProblemError(f"labels have shape {tuple(labels.shape)}, the samples {sample_shape}")
    valid = labels[labels != IGNORED]
    if valid.numel() and (int(valid.min()) < 0 or int(valid.max()) >= num_classes):
        raise InvalidProblemError(f"labels outside 0 .. {num_classes - 1} (the model has {num_classes} outputs)")


def num_valid_labels(labels: Tensor) -> int:
    """How many labels are not ignored."""
    return int((labels != IGNORED).sum())


def check_numbers(targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
    """Make sure that `targets` are finite real numbers (*sample_shape, num_outputs).

    Raises:
        InvalidProblemError: Says what does not fit.
    """
    expected = (*sample_shape, num_outputs)
    if not targets.is_floating_point() or tuple(targets.shape) != expected:
        found = f"{tuple(targets.shape)} of {targets.dtype}"
        raise InvalidProblemError(f"targets must be real numbers {expected}, not {found}")
    if not bool(targets.isfinite().all()):
        raise InvalidProblemError("targets hold NaN or infinity")
