"""Empirical risk: the mean loss of a model over its data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses.base import Loss
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.planning.work import OUTPUTS_BYTES
from hessian_spectrum.quadrature.errors import InvalidProblemError


class EmpiricalRisk:
    """L(theta) = 1/N sum_b total_b(theta), where N is the number of valid targets of all micro-batches b.

    Each batch is weighted by its number of valid targets, so any split of the data gives the same L, gradient and
    Hessian up to rounding.

    Raises:
        InvalidProblemError: If a batch fits neither model nor loss, or no target is valid.
    """

    def __init__(self, model: Model, loss: Loss, batches: Sequence[Dataset]) -> None:
        self.model = model
        self.loss = loss
        self.batches = tuple(batches)
        for batch in self.batches:
            model.check_inputs(batch.inputs)
            # a sample's axes are those of tokens (n, T), or of vectors (n, d) without their last one
            axes = batch.inputs.shape[:-1] if batch.inputs.is_floating_point() else batch.inputs.shape
            loss.check_targets(batch.targets, tuple(axes), model.num_outputs)
        self.num_terms = sum(loss.num_terms(batch.targets) for batch in self.batches)
        if self.num_terms == 0:
            raise InvalidProblemError("the data holds no valid target")

    def batch_share(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """total_b / N of micro-batch `index`, a scalar; the risk is the sum of the shares."""
        batch = self.batches[index]
        return self.loss.total(self.model(parameters, batch.inputs), batch.targets) / self.num_terms

    def features(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Inputs of the output layer for micro-batch `index`; the outputs if the model has no separate output layer."""
        return self.model.features(parameters, self.batches[index].inputs)

    def output_chunks(self, index: int, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (m, d) of a bounded number of samples, and their targets (m,), in order."""
        rows, targets = features.reshape(-1, features.shape[-1]), self.batches[index].targets.reshape(-1)
        size = max(1, OUTPUTS_BYTES // (features.dtype.itemsize * self.model.num_outputs))
        yield from zip(torch.split(rows, size), torch.split(targets, size), strict=True)

    def residual(self, index: int, outputs: Tensor) -> Tensor:
        """Derivative r = dL/df (*samples, K), including the factor 1/N; differentiable with respect to `outputs`."""
        return self.loss.gradient(outputs, self.batches[index].targets) / self.num_terms

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """L, a scalar, without its autograd graph."""
        with torch.no_grad():
            return torch.stack([self.loss.total(*each) for each in self._outputs(parameters)]).sum() / self.num_terms

    def mean_residual_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Mean over valid targets of ||d term / d f||, where f are the outputs (K,) at that target.

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
        """L and its gradient by parameter name; activations of only one micro-batch are in memory at a time."""
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
        weight, seen, values = leaves[head].detach(), torch.empty_like(features), []
        rows_seen = seen.view(-1, features.shape[-1])
        start = 0
        for rows, targets in self.output_chunks(index, features.detach()):
            outputs = rows @ weight.T
            values.append(self.loss.total(outputs, targets))
            residual = self.loss.gradient(outputs, targets) / self.num_terms
            rows_seen[start : start + len(rows)] = residual @ weight
            gradient[head].addmm_(residual.T, rows)
            start += len(rows)
        _add_all(gradient, torch.autograd.grad(features, list(leaves.values()), seen, allow_unused=True))
        return torch.stack(values).sum() / self.num_terms


def _add_all(totals: Parameters, parts: Iterable[Tensor | None]) -> None:
    for total, part in zip(totals.values(), parts, strict=True):
        if part is not None:
            total.add_(part)
