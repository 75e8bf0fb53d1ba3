"""Empirical risk: the mean loss of a model over its data."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError
from curvature.losses.base import Loss
from curvature.models.base import Model
from curvature.parameters import Parameters


class EmpiricalRisk:
    """L(theta) = 1/N sum_b total_b(theta), N the number of valid targets of all micro-batches b.

    A batch so weighs as much as it has valid targets, and any split of the data gives the same L, gradient and Hessian
    up to rounding.

    Raises:  InvalidProblemError if a batch fits neither model nor loss, or no target is valid.
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

    def outputs(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """f (*samples, K) of micro-batch `index`."""
        return self.model(parameters, self.batches[index].inputs)

    def residual(self, index: int, outputs: Tensor) -> Tensor:
        """r = dL/df (*samples, K), 1/N included; differentiable in `outputs`."""
        return self.loss.gradient(outputs, self.batches[index].targets) / self.num_terms

    def loss_hessian_product(self, index: int, outputs: Tensor, direction: Tensor) -> Tensor:
        """(d^2 L/df^2) u (*samples, K) for u = `direction`, 1/N included."""
        return self.loss.hessian_product(outputs, self.batches[index].targets, direction) / self.num_terms

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """L, a scalar, without its graph."""
        with torch.no_grad():
            return torch.stack([self.batch_share(index, parameters) for index in range(len(self.batches))]).sum()

    def mean_residual_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """1/N sum over valid targets of ||d term / d f||, f the outputs (K,) at that target; a scalar.

        Of cross-entropy ||softmax(z) - e_y|| at each token, between 0 and sqrt(2).
        Source:  Cracking the Hessian, appendix D.1.5, "the average norm of the residual".
        """
        with torch.no_grad():
            norms = [
                self.loss.gradient(self.outputs(index, parameters), batch.targets).norm(dim=-1).sum()
                for index, batch in enumerate(self.batches)
            ]
            return torch.stack(norms).sum() / self.num_terms

    def value_and_gradient(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
        """L and its gradient by parameter name; one micro-batch's activations are held at a time."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
        gradient = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        shares = []
        for index in range(len(self.batches)):
            share = self.batch_share(index, leaves)
            parts = torch.autograd.grad(share, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for name, part in zip(gradient, parts, strict=True):
                gradient[name] += part
            shares.append(share.detach())
        return torch.stack(shares).sum(), gradient
