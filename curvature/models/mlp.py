"""Fully connected networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from curvature.cost import mlp_size
from curvature.errors import InvalidProblemError
from curvature.models.base import Model
from curvature.parameters import Parameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Mlp(Model):
    """h_0 = x, h_{l+1} = phi(W_l h_l + b_l), without phi after the last layer.

    Args:
        widths: input, hidden ... and output dimension, at least two.
        activation: phi, one of `ACTIVATIONS`; gelu is the exact one, with the error function.
        bias: whether b_l exist.
    Parameters:  "layers.{l}.weight" (widths[l + 1], widths[l]) and "layers.{l}.bias" (widths[l + 1],).
    Raises:  InvalidProblemError on fewer than two widths, a width below 1 or an unknown activation.
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    bias: bool = True

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InvalidProblemError(f"an mlp needs at least two widths, each at least 1, not {list(self.widths)}")
        if self.activation not in ACTIVATIONS:
            raise InvalidProblemError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return self.widths[-1]

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight, then bias, layer by layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            shapes[f"layers.{layer}.weight"] = (fan_out, fan_in)
            if self.bias:
                shapes[f"layers.{layer}.bias"] = (fan_out,)
        return shapes

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Weights and biases uniform in +-1/sqrt(fan_in): the standard parametrisation, PyTorch's `nn.Linear`."""
        parameters = {}
        for name, shape in self.parameter_shapes.items():
            bound = 1 / sqrt(self.widths[int(name.split(".")[1])])
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
            parameters[name] = ((2 * uniform - 1) * bound).to(dtype=dtype, device=device)
        return parameters

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, widths[0]), floating point and finite."""
        if inputs.ndim != 2 or inputs.shape[1] != self.widths[0] or not inputs.is_floating_point():
            found = f"{tuple(inputs.shape)} of {inputs.dtype}"
            raise InvalidProblemError(f"mlp inputs must be real numbers (n, {self.widths[0]}), not {found}")
        if not bool(inputs.isfinite().all()):
            raise InvalidProblemError("mlp inputs hold NaN or infinity")

    def num_activations(self, inputs: Tensor) -> int:
        """Pre- and post-activations of every layer, inputs included."""
        return mlp_size(self.widths, self.bias, inputs.shape[0]).num_activations

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, widths[-1]) for inputs (n, widths[0])."""
        activation = ACTIVATIONS[self.activation]
        hidden = inputs
        for layer in range(len(self.widths) - 1):
            bias = parameters[f"layers.{layer}.bias"] if self.bias else None
            hidden = F.linear(hidden if layer == 0 else activation(hidden), parameters[f"layers.{layer}.weight"], bias)
        return hidden
