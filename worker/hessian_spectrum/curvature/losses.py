"""Losses as sums over targets, and the empirical risk: the mean loss of a model over its data."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property

import torch
from torch import Tensor
from torch.func import grad, jvp

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.planning.work import OUTPUTS_BYTES
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

IGNORED = -100
"""Label of targets that count for nothing, as in PyTorch."""


class Loss(ABC):
    """A sum of one term per valid target; `EmpiricalRisk` takes the mean over the whole data."""

    @abstractmethod
    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms, a scalar that is twice differentiable in `outputs` (..., K)."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of `total` with respect to the outputs (..., K), which is differentiable."""
        return grad(self.total)(outputs, targets)  # type: ignore[no-any-return]

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the product of the second derivative of `total` in the outputs with `direction`, each (..., K)."""
        return jvp(lambda at: self.gradient(at, targets), (outputs,), (direction,))[1]  # type: ignore[no-any-return]

    @abstractmethod
    def num_terms(self, targets: Tensor) -> int:
        """Return the number of valid targets, which is the weight of a batch."""

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


class CrossEntropy(Loss):
    """Cross-entropy of class labels or tokens, in nats.

    There is one term per valid target y with logits z: log sum_k exp(z_k) - z_y. Label -100 is ignored.
    """

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for logits (*samples, K) and labels (*samples)."""
        valid = targets != IGNORED
        picked = outputs.gather(-1, torch.where(valid, targets, 0).unsqueeze(-1)).squeeze(-1)
        terms = outputs.logsumexp(dim=-1) - picked
        return (terms * valid.to(terms.dtype)).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return softmax(z) - e_y for each valid target, and 0 for ignored ones."""
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        picked = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        return _masked(outputs.softmax(dim=-1) - picked, targets)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return (diag(p) - p p^T) u with p = softmax(z) for each valid target, and 0 for ignored ones."""
        probabilities = _masked(outputs.softmax(dim=-1), targets)
        weighted = probabilities * direction
        return weighted - probabilities * weighted.sum(dim=-1, keepdim=True)

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of labels that are not ignored."""
        return num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are labels (*sample_shape,) in 0 .. num_outputs - 1, or -100."""
        check_labels(targets, sample_shape, num_outputs)


def _masked(values: Tensor, targets: Tensor) -> Tensor:
    """Return the values (*samples, K), with 0 for ignored targets."""
    valid = targets != IGNORED
    # a product with ones would be one more constant as large as the logits in every recording
    return values if bool(valid.all()) else values * valid.unsqueeze(-1).to(values.dtype)


class Mse(Loss):
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
        return targets[..., 0].numel() if targets.is_floating_point() else num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are finite real numbers (*sample_shape, num_outputs), or labels (*sample_shape,)."""
        if not targets.is_floating_point():
            check_labels(targets, sample_shape, num_outputs)
            return
        check_numbers(targets, sample_shape, num_outputs)


def _valid(targets: Tensor, outputs: Tensor) -> Tensor:
    """Return 1 for each valid label and 0 for each ignored one, of shape (*samples, 1)."""
    return (targets != IGNORED).unsqueeze(-1).to(outputs.dtype)


class OutputValue(Loss):
    """The output of a model with one output as its own loss; targets (n, 1) only count the samples."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the outputs (n, 1)."""
        return outputs.sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(outputs)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return zeros, because the loss is linear in the output."""
        return torch.zeros_like(direction)

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of samples."""
        return len(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets have shape (*sample_shape, 1); they may have any value."""
        if num_outputs != 1:
            raise InvalidProblemError(f"a model whose output is its loss must have one output, not {num_outputs}")
        if tuple(targets.shape) != (*sample_shape, 1):
            raise InvalidProblemError(
                f"targets must have the shape of the outputs, {(*sample_shape, 1)}, not {tuple(targets.shape)}"
            )


LOSS_CLASSES: dict[str, type[Loss]] = {
    "mse": Mse,
    "cross-entropy": CrossEntropy,
}
"""Losses by the names that requests have for them."""


class EmpiricalRisk:
    """The mean loss L(theta) = 1/N sum_b total_b(theta) over micro-batches b with N valid targets in all.

    Each batch is weighted by its number of valid targets, so any split of the data gives the same L, gradient and
    Hessian up to rounding.

    Raises:
        InvalidProblemError: If a batch fits neither model nor loss, or no target is valid.
    """

    def __init__(self, model: Model, loss: Loss, batches: Sequence[Dataset]) -> None:
        self.model = model
        self.loss = loss
        self.batches = tuple(batches)
        self._check_batches()

    def _check_batches(self) -> None:
        for batch in self.batches:
            self.model.check_inputs(batch.inputs)
            self.loss.check_targets(batch.targets, self.model.sample_shape(batch.inputs), self.model.num_outputs)
        if self.num_terms == 0:
            raise InvalidProblemError("the data has no valid target")

    @cached_property
    def num_terms(self) -> int:
        """Number N of valid targets of all batches together."""
        return sum(self.loss.num_terms(batch.targets) for batch in self.batches)

    def with_batch_in_memory(self, index: int) -> "EmpiricalRisk":
        """Return the same risk with micro-batch `index` in memory; itself if that is there already."""
        batch = self.batches[index].in_memory()
        if batch is self.batches[index]:
            return self
        risk = copy(self)
        risk.batches = (*self.batches[:index], batch, *self.batches[index + 1 :])
        return risk

    def batch_share(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return total_b / N of micro-batch `index`, a scalar; the risk is the sum of these shares."""
        batch = self.batches[index]
        return self.loss.total(self.model(parameters, batch.inputs), batch.targets) / self.num_terms

    def features(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the inputs of the output layer for micro-batch `index`, or the outputs if there is no such layer."""
        return self.model.features(parameters, self.batches[index].inputs)

    def output_chunks(self, index: int, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (m, d) of a bounded number of samples with their targets (m,), in order."""
        rows, targets = features.reshape(-1, features.shape[-1]), self.batches[index].targets.reshape(-1)
        size = max(1, OUTPUTS_BYTES // (features.dtype.itemsize * self.model.num_outputs))
        yield from zip(torch.split(rows, size), torch.split(targets, size), strict=True)

    def residual(self, index: int, outputs: Tensor) -> Tensor:
        """Return r = dL/df (*samples, K), including the factor 1/N, differentiable with respect to `outputs`."""
        return self.loss.gradient(outputs, self.batches[index].targets) / self.num_terms

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return L, a scalar, without its autograd graph."""
        with torch.no_grad():
            return torch.stack([self.loss.total(*each) for each in self._outputs(parameters)]).sum() / self.num_terms

    def mean_residual_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over valid targets of ||d term / d f||, where f are the outputs (K,) at that target.

        For cross-entropy this is ||softmax(z) - e_y|| at each token, between 0 and sqrt(2).

        Args:
            parameters: Parameters of the model, by name.

        Returns:
            The mean, a scalar.

        References:
            Cracking the Hessian, appendix D.1.5, "the average norm of the residual".
        """
        with torch.no_grad():
            norms = [self.loss.gradient(*each).norm(dim=-1).sum() for each in self._outputs(parameters)]
            return torch.stack(norms).sum() / self.num_terms

    def _outputs(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Outputs with their targets, of a micro-batch or of one piece of it at a time."""
        head = self.model.head_name
        for index, batch in enumerate(self.batches):
            features = self.features(index, parameters)
            if head is None:
                yield features, batch.targets
                continue
            for rows, targets in self.output_chunks(index, features):
                yield rows @ parameters[head].T, targets

    def value_and_gradient(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
        """Return L and its gradient by parameter name, with the activations of one micro-batch in memory at a time."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
        gradient = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        shares = [self._add_gradient(index, leaves, gradient) for index in range(len(self.batches))]
        return torch.stack(shares).sum(), gradient

    def _add_gradient(self, index: int, leaves: Parameters, gradient: Parameters) -> Tensor:
        """Add the gradient of the share of micro-batch `index`, which is returned."""
        head = self.model.head_name
        if head is None:
            share = self.batch_share(index, leaves)
            _add_all(gradient, torch.autograd.grad(share, list(leaves.values()), allow_unused=True))
            return share.detach()
        features = self.features(index, leaves)
        weight, cotangent, values = leaves[head].detach(), torch.empty_like(features), []
        cotangent_rows = cotangent.view(-1, features.shape[-1])
        start = 0
        for rows, targets in self.output_chunks(index, features.detach()):
            outputs = rows @ weight.T
            values.append(self.loss.total(outputs, targets))
            residual = self.loss.gradient(outputs, targets) / self.num_terms
            cotangent_rows[start : start + len(rows)] = residual @ weight
            gradient[head].addmm_(residual.T, rows)
            start += len(rows)
        _add_all(gradient, torch.autograd.grad(features, list(leaves.values()), cotangent, allow_unused=True))
        return torch.stack(values).sum() / self.num_terms


def _add_all(totals: Parameters, parts: Iterable[Tensor | None]) -> None:
    for total, part in zip(totals.values(), parts, strict=True):
        if part is not None:
            total.add_(part)
