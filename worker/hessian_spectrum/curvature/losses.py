"""Losses by name, and the empirical risk: the mean loss of a model over its data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property

import torch
from torch import Tensor

from hessian_spectrum.curvature.classification_losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    KullbackLeibler,
    cross_entropy,
)
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.loss_base import IGNORED, Loss, check_labels, check_numbers, num_valid_labels
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.regression_losses import GaussianNll, Huber, Mse, PoissonNll
from hessian_spectrum.planning.work import OUTPUTS_BYTES
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

__all__ = [
    "IGNORED",
    "LOSS_CLASSES",
    "CrossEntropy",
    "EmpiricalRisk",
    "Loss",
    "Mse",
    "OutputValue",
    "check_labels",
    "check_numbers",
    "num_valid_labels",
]


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


LOSS_CLASSES: dict[str, Callable[..., Loss]] = {
    "mse": Mse,
    "cross-entropy": cross_entropy,
    "binary-cross-entropy": BinaryCrossEntropy,
    "huber": Huber,
    "gaussian-nll": GaussianNll,
    "poisson-nll": PoissonNll,
    "kl": KullbackLeibler,
    "output": OutputValue,
}
"""Losses by the names that requests have for them."""


class EmpiricalRisk:
    """The mean loss L(theta) = 1/W sum_b total_b(theta) + (d/2) ||theta||^2 over micro-batches b of the data.

    W is the number N of valid targets or, of a loss with class weights, the sum of their weights, and d the weight
    decay. Each batch counts by its share of W, so any split of the data gives the same L, gradient and Hessian up to
    rounding.

    Args:
        model: The model.
        loss: Loss of the model's outputs.
        batches: The data.
        weight_decay: d, of all parameters that are differentiated.

    Raises:
        InvalidProblemError: If a batch fits neither model nor loss, or no target is valid.
    """

    def __init__(self, model: Model, loss: Loss, batches: Sequence[Dataset], *, weight_decay: float = 0.0) -> None:
        self.model = model
        self.loss = loss
        self.weight_decay = weight_decay
        self.batches = tuple(batches)
        self._check_batches()

    def _check_batches(self) -> None:
        for batch in self.batches:
            self.model.check_inputs(batch.inputs)
            self.loss.check_targets(batch.targets, self.model.sample_shape(batch.inputs), self.model.num_outputs)
        if self.num_terms == 0:
            raise InvalidProblemError("the data has no valid target")
        if self.weight == 0:
            raise InvalidProblemError("every valid target has a class of weight 0")

    @cached_property
    def num_terms(self) -> int:
        """Number N of valid targets of all batches together."""
        return sum(self.loss.num_terms(batch.targets) for batch in self.batches)

    @cached_property
    def weight(self) -> float:
        """Weight W of all batches together, by which sums of terms are divided."""
        return sum(self.loss.weight(batch.targets) for batch in self.batches)

    def with_batch_in_memory(self, index: int) -> "EmpiricalRisk":
        """Return the same risk with micro-batch `index` in memory; itself if that is there already."""
        batch = self.batches[index].in_memory()
        if batch is self.batches[index]:
            return self
        risk = copy(self)
        risk.batches = (*self.batches[:index], batch, *self.batches[index + 1 :])
        return risk

    def batch_share(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return total_b / W of micro-batch `index`, a scalar; without weight decay the risk is the sum of these."""
        batch = self.batches[index]
        return self.loss.total(self.model(parameters, batch.inputs), batch.targets) / self.weight

    def features(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the inputs of the output layer for micro-batch `index`, or the outputs if there is no such layer."""
        return self.model.features(parameters, self.batches[index].inputs)

    def output_chunks(self, index: int, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (m, d) of a bounded number of samples with their targets (m,), in order."""
        rows, targets = features.reshape(-1, features.shape[-1]), self.batches[index].targets.reshape(-1)
        size = max(1, OUTPUTS_BYTES // (features.dtype.itemsize * self.model.num_outputs))
        yield from zip(torch.split(rows, size), torch.split(targets, size), strict=True)

    def residual(self, index: int, outputs: Tensor) -> Tensor:
        """Return r = dL/df (*samples, K), including the factor 1/W, differentiable with respect to `outputs`."""
        return self.loss.gradient(outputs, self.batches[index].targets) / self.weight

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return L, a scalar, without its autograd graph."""
        with torch.no_grad():
            mean = torch.stack([self.loss.total(*each) for each in self._outputs(parameters)]).sum() / self.weight
            return mean + self._penalty(parameters) if self.weight_decay else mean

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
        value = torch.stack(shares).sum()
        if self.weight_decay:
            value = value + self._penalty(parameters)
            for name, tensor in parameters.items():
                gradient[name].add_(tensor.detach(), alpha=self.weight_decay)
        return value, gradient

    def _penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return (d/2) ||theta||^2, a scalar."""
        squares = [tensor.detach().square().sum() for tensor in parameters.values()]
        return self.weight_decay / 2 * torch.stack(squares).sum()

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
            residual = self.loss.gradient(outputs, targets) / self.weight
            cotangent_rows[start : start + len(rows)] = residual @ weight
            gradient[head].addmm_(residual.T, rows)
            start += len(rows)
        _add_all(gradient, torch.autograd.grad(features, list(leaves.values()), cotangent, allow_unused=True))
        return torch.stack(values).sum() / self.weight


def _add_all(totals: Parameters, parts: Iterable[Tensor | None]) -> None:
    for total, part in zip(totals.values(), parts, strict=True):
        if part is not None:
            total.add_(part)
