"""Fully connected networks, and how their layers start, scale and learn as the width grows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.curvature.models.base import Model, Parameters, activation_named, check_real_inputs
from hessian_spectrum.planning.activations import DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size, mlp_size
from hessian_spectrum.quadrature.errors import InvalidProblemError


@dataclass(frozen=True)
class Layer:
    """z = weight_scale * W h + b with W (fan_out, fan_in); b (fan_out,) where there is one."""

    fan_in: int
    fan_out: int


class Parametrization(ABC):
    """Initial values, forward scale and learning rates of a layer; all random numbers are float64."""

    @abstractmethod
    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """W (fan_out, fan_in)."""

    @abstractmethod
    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """The bias b (fan_out,)."""

    def weight_scale(self, layer: Layer) -> float:
        """What W h is multiplied by."""
        return 1.0

    def weight_rate(self, layer: Layer) -> float:
        """Factor on the learning rate of W."""
        return 1.0

    def bias_rate(self, layer: Layer) -> float:
        """Factor on the learning rate of b."""
        return 1.0


class Standard(Parametrization):
    """PyTorch's `nn.Linear`: weights and biases uniform in +-1/sqrt(fan_in), one learning rate."""

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Uniform in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out, layer.fan_in), generator)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Uniform in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out,), generator)

    def _uniform(self, layer: Layer, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / sqrt(layer.fan_in)


class Ntk(Parametrization):
    """Neural tangent: W, b ~ N(0, 1) and z = W h / sqrt(fan_in) + b, one learning rate.

    The print of Cracking, appendix D.1.3, scales a layer's output by 1/sqrt of its own width n_l; the source of the
    parametrisation, and we, scale by that of its input. The bias is the source's with beta = 1.

    References:
        Jacot, Gabriel & Hongler, Neural Tangent Kernel, NeurIPS 2018, section 2.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(layer.fan_out, generator=generator, dtype=torch.float64)

    def weight_scale(self, layer: Layer) -> float:
        """1 / sqrt(fan_in)."""
        return 1 / sqrt(layer.fan_in)


class MaximalUpdate(Parametrization):
    """muP by the spectral condition: features and their updates keep their size at every width.

    W ~ N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in), so that ||W||_2 is of order
    sqrt(fan_out / fan_in); the learning rate of W is multiplied by fan_out / fan_in. A bias is a weight of the constant
    input 1, so fan_in = 1: its learning rate is multiplied by fan_out; it starts at 0, which the condition permits.

    Cracking, appendix D.1.3, prints variance fan_out / fan_in and rate 1 / fan_in, which blows up with the width:
    features grow as sqrt(width) from layer to layer, their updates faster still.

    References:
        Yang, Simon & Bernstein, A Spectral Condition for Feature Learning, arXiv:2310.17813, the spectral
        parametrization.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Normal with standard deviation min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in)."""
        std = min(1.0, sqrt(layer.fan_out / layer.fan_in)) / sqrt(layer.fan_in)
        return std * torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(layer.fan_out, dtype=torch.float64)

    def weight_rate(self, layer: Layer) -> float:
        """fan_out / fan_in."""
        return layer.fan_out / layer.fan_in

    def bias_rate(self, layer: Layer) -> float:
        """fan_out."""
        return float(layer.fan_out)


PARAMETRIZATIONS: dict[str, Parametrization] = {"standard": Standard(), "ntk": Ntk(), "mup": MaximalUpdate()}


def parametrization_named(name: str) -> Parametrization:
    """The parametrisation of that name.

    Raises:
        InvalidProblemError: If there is none.
    """
    if name not in PARAMETRIZATIONS:
        raise InvalidProblemError(f"parametrization {name!r} is none of {', '.join(PARAMETRIZATIONS)}")
    return PARAMETRIZATIONS[name]


@dataclass(frozen=True)
class Mlp(Model):
    """h_0 = x, h_{l+1} = phi(s_l W_l h_l + b_l), without phi after the last layer.

    Args:
        widths: input, hidden ... and output dimension, at least two.
        activation: phi, one of `ACTIVATIONS`.
        bias: whether b_l exist.
        parametrization: one of `PARAMETRIZATIONS`: initial values, the scales s_l and learning rates.
        negative_slope: of leaky-relu.
    Parameters:  "layers.{l}.weight" (widths[l + 1], widths[l]) and "layers.{l}.bias" (widths[l + 1],).

    Raises:
        InvalidProblemError: On fewer than two widths, a width below 1, an unknown activation or parametrisation.
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    bias: bool = True
    _: KW_ONLY
    parametrization: str = "standard"
    negative_slope: float = DEFAULT_NEGATIVE_SLOPE

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InvalidProblemError(f"an mlp needs at least two widths, each at least 1, not {list(self.widths)}")
        activation_named(self.activation, self.negative_slope)
        parametrization_named(self.parametrization)

    @property
    def num_outputs(self) -> int:
        """Width of the last layer."""
        return self.widths[-1]

    @property
    def layers(self) -> list[Layer]:
        """Their sizes, from the input on."""
        return [Layer(fan_in, fan_out) for fan_in, fan_out in pairwise(self.widths)]

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight, then bias, layer by layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            shapes[f"layers.{index}.weight"] = (layer.fan_out, layer.fan_in)
            if self.bias:
                shapes[f"layers.{index}.bias"] = (layer.fan_out,)
        return shapes

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """As the parametrisation draws them."""
        rule = parametrization_named(self.parametrization)
        parameters = {}
        for index, layer in enumerate(self.layers):
            parameters[f"layers.{index}.weight"] = rule.initial_weight(layer, generator)
            if self.bias:
                parameters[f"layers.{index}.bias"] = rule.initial_bias(layer, generator)
        return {name: values.to(dtype=dtype, device=device) for name, values in parameters.items()}

    def learning_rate_multipliers(self) -> dict[str, float]:
        """As the parametrisation says."""
        rule = parametrization_named(self.parametrization)
        multipliers = {}
        for index, layer in enumerate(self.layers):
            multipliers[f"layers.{index}.weight"] = rule.weight_rate(layer)
            if self.bias:
                multipliers[f"layers.{index}.bias"] = rule.bias_rate(layer)
        return multipliers

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, widths[0]), floating point and finite."""
        check_real_inputs(inputs, "mlp", "n", self.widths[0])

    def size_on(self, inputs: Tensor) -> Size:
        """Pre- and post-activations of every layer, inputs included."""
        return mlp_size(self.widths, self.bias, inputs.shape[0], self.activation)

    def layer_names(self, index: int) -> tuple[str, str]:
        """Names of a layer's weight and bias."""
        return f"layers.{index}.weight", f"layers.{index}.bias"

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, widths[-1]) for inputs (n, widths[0])."""
        return self.forward(parameters, inputs)[0]

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, offsets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs (n, widths[-1]), and what each weight is multiplied by, s_l h_l (n, widths[l]).

        Args:
            offsets: (n, widths[l + 1]) each, are added to what the layers give.
        """
        activation = activation_named(self.activation, self.negative_slope)
        rule = parametrization_named(self.parametrization)
        hidden, multiplied = inputs, []
        for index, layer in enumerate(self.layers):
            (weight, bias), scale = self.layer_names(index), rule.weight_scale(layer)
            hidden = hidden if index == 0 else activation(hidden)
            # the input is scaled, not the weight: mostly fewer numbers, and none at all for the others
            multiplied.append(hidden if scale == 1 else scale * hidden)
            hidden = F.linear(multiplied[-1], parameters[weight], parameters[bias] if self.bias else None)
            hidden = hidden if offsets is None else hidden + offsets[index]
        return hidden, multiplied


MODELS = {"mlp": Mlp}
