"""Many networks with one hidden layer at once: loss, gradient and dense Hessian of each, without a graph."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ACTIVATIONS = ("tanh", "linear")


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks f(x) = W2 phi(W1 x), each with data of its own; n inputs, n hidden units, n outputs, m samples.

    The loss is L = 1/(2m) sum |f(x_i) - y_i|^2, and the energy is L / n. Parameters are rows of 2 n^2 numbers, W1 row
    by row and then W2.

    Attributes:
        inputs: Samples of shape (B, n, m), one per column.
        targets: Targets of shape (B, n, m).
        activation: One of `ACTIVATIONS`.

    References:
        Pennington & Bahri, ICML 2017; Lecture.
    """

    inputs: Tensor
    targets: Tensor
    activation: str

    @property
    def num_networks(self) -> int:
        """Number B of networks."""
        return self.inputs.shape[0]

    @property
    def width(self) -> int:
        """Number n of inputs, hidden units and outputs."""
        return self.inputs.shape[1]

    @property
    def num_parameters(self) -> int:
        """Number 2 n^2 of parameters of one network."""
        return 2 * self.width**2

    def of(self, which: Tensor) -> "Networks":
        """Return some of the networks, by their positions."""
        return Networks(self.inputs[which], self.targets[which], self.activation)


class Point(NamedTuple):
    """Loss (B,), gradient (B, P) and Hessian (B, P, P) of networks at their parameters."""

    loss: Tensor
    gradient: Tensor
    hessian: Tensor


class _Pass(NamedTuple):
    """Intermediate values of networks, each (B, n, m)."""

    hidden: Tensor  # phi(W1 x)
    slope: Tensor  # phi'
    curvature: Tensor | None  # phi''; None where it is 0
    residual: Tensor  # f(x) - y
    pulled: Tensor  # W2^T residual


def random_networks(
    num_networks: int, width: int, num_samples: int, *, activation: str, generator: torch.Generator
) -> Networks:
    """Draw inputs and targets N(0, 1), independent of each other: a network can only memorise them.

    The targets of each network are scaled to a mean square of 1, so that the energy of a network without outputs is 1/2
    for every draw. Otherwise energies of small networks scatter by the sampling error of that mean square.

    Args:
        num_networks: Number B of networks, each of which has data of its own.
        width: Number n of inputs, hidden units and outputs.
        num_samples: Number m of samples.
        activation: One of `ACTIVATIONS`.
        generator: CPU generator, which advances.

    Returns:
        The networks.
    """
    shape = (2, num_networks, width, num_samples)
    inputs, targets = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Networks(inputs, targets / targets.square().mean((1, 2), keepdim=True).sqrt(), activation)


def layers(networks: Networks, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """W1 and W2, each (B, n, n), of parameters (B, 2 n^2)."""
    n = networks.width
    first, second = parameters.view(-1, 2, n, n).unbind(1)
    return first, second


def _passed(networks: Networks, parameters: Tensor) -> _Pass:
    first, second = layers(networks, parameters)
    hidden = first @ networks.inputs
    curvature = None
    if networks.activation == "tanh":
        hidden = hidden.tanh()
        slope = 1 - hidden * hidden
        curvature = -2 * hidden * slope
    else:
        slope = torch.ones_like(hidden)
    residual = second @ hidden - networks.targets
    return _Pass(hidden, slope, curvature, residual, second.mT @ residual)


def _loss_and_gradient(networks: Networks, values: _Pass) -> tuple[Tensor, Tensor]:
    num_samples = networks.inputs.shape[2]
    loss = values.residual.square().sum((1, 2)) / (2 * num_samples)
    first = (values.pulled * values.slope) @ networks.inputs.mT
    second = values.residual @ values.hidden.mT
    return loss, torch.cat([first.flatten(1), second.flatten(1)], 1) / num_samples


def loss_and_gradient(networks: Networks, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (B,) and gradient (B, P) at parameters (B, P)."""
    return _loss_and_gradient(networks, _passed(networks, parameters))


def point(networks: Networks, parameters: Tensor) -> Point:
    """Loss, gradient and dense Hessian at parameters.

    With Z = phi' x (n^2, m), the block of W1 is mean((W2^T W2)_{jj'} Z_{jk} Z_{j'k'}) plus, for j = j', mean((W2^T
    delta)_j phi''_j x_k x_k'); that of W2 is mean(phi_j phi_j') for equal outputs; and that between W1_{jk} and W2_{il}
    is mean(W2_{ij} Z_{jk} phi_l) plus, for j = l, mean(delta_i Z_{jk}).

    Args:
        networks: Networks.
        parameters: Parameters of shape (B, P).

    Returns:
        The point, with a Hessian that is symmetric up to rounding.
    """
    values = _passed(networks, parameters)
    n, m = networks.inputs.shape[1:]
    second = layers(networks, parameters)[1]
    scaled = values.slope.unsqueeze(2) * networks.inputs.unsqueeze(1)  # Z: (B, n, n, m)
    flat = scaled.flatten(1, 2)
    each = torch.arange(n)
    upper = (flat @ flat.mT).view(-1, n, n, n, n) * (second.mT @ second)[:, :, None, :, None]
    if values.curvature is not None:
        weights = (values.pulled * values.curvature).unsqueeze(2) * networks.inputs.unsqueeze(1)
        upper[:, each, :, each, :] += (weights @ networks.inputs.unsqueeze(1).mT).transpose(0, 1)
    cross = second.mT[:, :, None, :, None] * (flat @ values.hidden.mT).view(-1, n, n, 1, n)
    pulled = (values.residual @ flat.mT).view(-1, n, n, n)  # i, j, k
    cross[:, each, :, :, each] += pulled.permute(2, 0, 3, 1)
    lower = torch.zeros_like(upper)
    lower[:, each, :, each, :] = values.hidden @ values.hidden.mT
    blocks = [block.reshape(-1, n * n, n * n) for block in (upper, cross, lower)]
    hessian = torch.cat([torch.cat(blocks[:2], 2), torch.cat([blocks[1].mT, blocks[2]], 2)], 1) / m
    return Point(*_loss_and_gradient(networks, values), hessian)


def descend(networks: Networks, parameters: Tensor, *, learning_rate: float, num_steps: Tensor) -> Tensor:
    """Parameters after gradient descent of a number of steps that each network has for itself.

    Args:
        networks: Networks.
        parameters: Initial parameters of shape (B, P), which are not changed.
        learning_rate: Step size.
        num_steps: Numbers of steps of shape (B,).

    Returns:
        Parameters of shape (B, P).
    """
    parameters = parameters.clone()
    order = torch.argsort(num_steps, descending=True, stable=True)
    remaining = num_steps[order]
    for step in range(int(remaining[0]) if len(remaining) else 0):
        moving = order[: int((remaining > step).sum())]
        gradient = loss_and_gradient(networks.of(moving), parameters[moving])[1]
        parameters[moving] -= learning_rate * gradient
    return parameters
