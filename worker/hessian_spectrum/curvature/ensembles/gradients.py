"""Losses and gradients of all members of an ensemble, on one batch of each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hessian_spectrum.curvature.ensembles.stack import (
    Ensemble,
    StackedMlp,
    has_one_copy,
    num_multiplications,
    products,
    selected,
    totals,
)
from hessian_spectrum.curvature.losses import Loss, Mse
from hessian_spectrum.curvature.models.base import Parameters, activation_named
from hessian_spectrum.curvature.models.mlp import Mlp, parametrization_named

OVERFLOW_SHARE = 1e-6
"""Share of the largest number above which losses are computed sample by sample."""


class Gradients(ABC):
    """Mean losses of batches, and their gradients."""

    @abstractmethod
    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Parameters]:
        """Return the loss of each member (N,) and its gradient by name (N, *shape).

        Args:
            parameters: Parameters of the members.
            inputs: Samples (N, n, D) of each member's batch.
            targets: Their targets (N, n, ...).
        """

    @abstractmethod
    def num_activations(self, batch_size: int) -> int:
        """Return how many numbers beside parameters and gradients a step of one member reads and writes."""


@dataclass(frozen=True)
class BackwardGradients(Gradients):
    """Gradients by backpropagation, layer by layer: a graph of all operations would cost as much as small networks."""

    model: Mlp
    loss: Loss

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Parameters]:
        """Return losses and gradients by one forward and one backward pass through all members."""
        activation = activation_named(self.model.activation, self.model.negative_slope)
        layers, last = self._layers, len(self.model.layers) - 1
        is_shared, count = has_one_copy(inputs), inputs.shape[1]
        hidden, multiplied, activated = inputs, [], []
        with torch.no_grad():
            for index, (weight, bias, scale) in enumerate(layers):
                multiplied.append(hidden if scale == 1 else scale * hidden)
                outputs = products(multiplied[-1], parameters[weight], is_shared=is_shared and index == 0)
                outputs = outputs.add_(parameters[bias].unsqueeze(1)) if self.model.bias else outputs
                if index < last:
                    with torch.enable_grad():
                        point = outputs.requires_grad_()
                        activated.append((point, activation(point)))
                    hidden = activated[-1][1].detach()
            values, slope = self._values_and_slopes(outputs.detach(), targets)
            values, slope = values / count, slope.div_(count)
            gradients: Parameters = {}
            for index in reversed(range(last + 1)):
                weight, bias, scale = layers[index]
                gradients[weight] = slope.mT @ multiplied[index]
                if self.model.bias:
                    gradients[bias] = slope.sum(dim=1)
                if index:
                    slope = slope @ parameters[weight]
                    slope = slope if scale == 1 else slope.mul_(scale)
                    point, value = activated[index - 1]
                    slope = slope if value is point else torch.autograd.grad(value, point, slope)[0]
        return values, {name: gradients[name] for name in parameters}

    def _values_and_slopes(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the terms of each member (N,), and its gradient in the outputs (N, n, K)."""
        slopes = self.loss.gradient(outputs, targets)
        if type(self.loss) is Mse:
            # half of the square of the gradient: fewer passes over the outputs
            flat = slopes.flatten(1)
            return torch.linalg.vecdot(flat, flat) / 2, slopes
        return totals(self.loss, outputs, targets), slopes

    def num_activations(self, batch_size: int) -> int:
        """Return the numbers of all layers, forwards and backwards."""
        return 2 * batch_size * sum(self.model.widths)

    @property
    def _layers(self) -> list[tuple[str, str, float]]:
        """Names of weight and bias of each layer, and the scale of its products."""
        rule = parametrization_named(self.model.parametrization)
        layers = enumerate(self.model.layers)
        return [(*self.model.layer_names(index), rule.weight_scale(layer)) for index, layer in layers]


@dataclass(frozen=True)
class MomentGradients(Gradients):
    """Gradients of linear networks f(x) = M x with squared errors, from the second moments of a batch.

    With S = mean(x x^T), C = mean(y x^T) and A_b = s_b W_b the gradient is G = M S - C in M, and s_b E_b R_b^T in W_b,
    with R_b = A_{b-1} ... A_1 and E_b = A_{b+1}^T ... A_B^T G: D samples in place of those of the batch. The loss is
    (<M, G - C> + mean |y|^2) / 2, whose rounding is relative to mean |y|^2.
    """

    model: Mlp

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Parameters]:
        """Return losses and gradients."""
        is_shared = has_one_copy(inputs) and has_one_copy(targets)
        # without the axis of members a product with all of them is one product of matrices
        x, y = (inputs[0], targets[0]) if is_shared else (inputs, targets)
        count = inputs.shape[1]
        second, cross = x.mT @ x / count, y.mT @ x / count
        squares = y.double().square().sum(dim=(-2, -1)) / count
        scales = self._scales
        weights = list(parameters.values())
        forward = [scales[0] * weights[0] if scales[0] != 1 else weights[0]]  # R_2, R_3, ..., M
        for weight, scale in zip(weights[1:], scales[1:], strict=True):
            product = weight @ forward[-1]
            forward.append(product if scale == 1 else product.mul_(scale))
        gradient = forward[-1] @ second - cross
        values = ((forward[-1] * (gradient - cross)).sum(dim=(1, 2), dtype=torch.float64) + squares) / 2
        is_large = ~(values < OVERFLOW_SHARE * torch.finfo(inputs.dtype).max)
        if bool(is_large.any()):  # differences of infinities would be NaN, where the loss is infinite
            values[is_large] = self._direct(parameters, inputs, targets, is_large)
        results = []
        for index in reversed(range(len(weights))):
            own = gradient if scales[index] == 1 else scales[index] * gradient
            results.append(own @ forward[index - 1].mT if index else own)
            if index:
                gradient = weights[index].mT @ own
        return values, dict(zip(parameters, reversed(results), strict=True))

    def num_activations(self, batch_size: int) -> int:
        """Return the numbers of the batch, and of D samples in all layers, forwards and backwards."""
        widths = self.model.widths
        return batch_size * (widths[0] + widths[-1]) + 2 * widths[0] * sum(widths)

    def _direct(self, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
        """Return the losses of some members from their samples, in float64."""
        rows = torch.nonzero(chosen).flatten()
        outputs = StackedMlp(self.model, len(rows))(selected(parameters, rows), inputs[rows])
        return totals(Mse(), outputs, targets[rows]).double() / inputs.shape[1]

    @property
    def _scales(self) -> list[float]:
        rule = parametrization_named(self.model.parametrization)
        return [rule.weight_scale(layer) for layer in self.model.layers]


def gradients_of(ensemble: Ensemble, batch_size: int, *, shares_batches: bool) -> Gradients:
    """Return what needs the fewer multiplications.

    Args:
        ensemble: The networks.
        batch_size: Number of samples of a batch.
        shares_batches: Whether all members have the same batches, whose moments are then computed once.
    """
    if not ensemble.is_linear or _moment_cost(ensemble, batch_size, shares_batches) >= _cost(ensemble, batch_size):
        return BackwardGradients(ensemble.model, ensemble.loss)
    return MomentGradients(ensemble.model)


def _cost(ensemble: Ensemble, batch_size: int) -> int:
    """Return the multiplications of a step of one member: three products for each layer, two for the first."""
    widths = ensemble.model.widths
    return batch_size * (3 * num_multiplications(widths) - widths[0] * widths[1])


def _moment_cost(ensemble: Ensemble, batch_size: int, shares_batches: bool) -> int:
    widths = ensemble.model.widths
    dim, outputs = widths[0], widths[-1]
    moments = 0 if shares_batches else batch_size * dim * (dim + outputs)
    layers = sum(3 * dim * fan_in * fan_out for fan_in, fan_out in list(pairwise(widths))[1:])
    return moments + outputs * dim * dim + layers
