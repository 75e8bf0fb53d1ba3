"""Fully connected networks, and parametrizations: how layers are initialised, scaled and trained as widths grow."""

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
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True)
class Layer:
    """Sizes of a layer z = weight_scale * W h + b with W (fan_out, fan_in) and b (fan_out,)."""

    fan_in: int
    fan_out: int


class Parametrization(ABC):
    """Initial values, forward scale and learning rates of a layer; random numbers are drawn in float64."""

    @abstractmethod
    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return the initial W (fan_out, fan_in)."""

    @abstractmethod
    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return the initial b (fan_out,)."""

    def weight_scale(self, layer: Layer) -> float:
        """Return the factor of W h."""
        return 1.0

    def weight_rate(self, layer: Layer) -> float:
        """Return the factor on the learning rate of W."""
        return 1.0

    def bias_rate(self, layer: Layer) -> float:
        """Return the factor on the learning rate of b."""
        return 1.0


class Standard(Parametrization):
    """The initialisation of PyTorch's `nn.Linear`: uniform in +-1/sqrt(fan_in), with one learning rate."""

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return uniform numbers in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out, layer.fan_in), generator)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return uniform numbers in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out,), generator)

    def _uniform(self, layer: Layer, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / sqrt(layer.fan_in)


class Ntk(Parametrization):
    """The neural tangent parametrization: W, b ~ N(0, 1) and z = W h / sqrt(fan_in) + b, with one learning rate.

    Cracking the Hessian, appendix D.1.3, scales a layer's output by 1/sqrt of its own width n_l; the original paper,
    which is followed here, scales by that of its input. The bias is that of the paper with beta = 1.

    References:
        Jacot, Gabriel & Hongler, Neural Tangent Kernel, NeurIPS 2018, section 2.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(layer.fan_out, generator=generator, dtype=torch.float64)

    def weight_scale(self, layer: Layer) -> float:
        """Return 1 / sqrt(fan_in)."""
        return 1 / sqrt(layer.fan_in)


class MaximalUpdate(Parametrization):
    """The maximal update parametrization (muP): features and their updates keep their size at every width.

    W ~ N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in), so that ||W||_2 is of order
    sqrt(fan_out / fan_in); the learning rate of W is multiplied by fan_out / fan_in. A bias is a weight of the constant
    input 1, so fan_in = 1: its learning rate is multiplied by fan_out; it starts at 0, which the condition permits.

    Cracking the Hessian, appendix D.1.3, has variance fan_out / fan_in and rate 1 / fan_in, which diverges with the
    width: features grow as sqrt(width) from layer to layer, and their updates faster still.

    References:
        Yang, Simon & Bernstein, A Spectral Condition for Feature Learning, arXiv:2310.17813, the spectral
        parametrization.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return normal numbers of standard deviation min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in)."""
        std = min(1.0, sqrt(layer.fan_out / layer.fan_in)) / sqrt(layer.fan_in)
        return std * torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Return zeros."""
        return torch.zeros(layer.fan_out, dtype=torch.float64)

    def weight_rate(self, layer: Layer) -> float:
        """Return fan_out / fan_in."""
        return layer.fan_out / layer.fan_in

    def bias_rate(self, layer: Layer) -> float:
        """Return fan_out."""
        return float(layer.fan_out)


class MaximalUpdateByFanIn(MaximalUpdate):
    """The initial values of muP with the learning rates that Cracking the Hessian prints: 1 / fan_in for weights.

    With these, updates keep their size at every width only in layers whose fan_out does not grow.

    References:
        Cracking the Hessian, appendix D.1.3.
    """

    def weight_rate(self, layer: Layer) -> float:
        """Return 1 / fan_in."""
        return 1 / layer.fan_in

    def bias_rate(self, layer: Layer) -> float:
        """Return 1, since a bias is a weight of one constant input."""
        return 1.0


PARAMETRIZATIONS: dict[str, Parametrization] = {
    "standard": Standard(),
    "ntk": Ntk(),
    "mup": MaximalUpdate(),
    "mup-fan-in": MaximalUpdateByFanIn(),
}


def parametrization_named(name: str) -> Parametrization:
    """Return a parametrization by its name.

    Args:
        name: One of `PARAMETRIZATIONS`.

    Returns:
        The parametrization.

    Raises:
        InvalidProblemError: If the name is unknown.
    """
    if name not in PARAMETRIZATIONS:
        raise InvalidProblemError(f"unknown parametrization {name!r}: must be one of {', '.join(PARAMETRIZATIONS)}")
    return PARAMETRIZATIONS[name]


@dataclass(frozen=True)
class Mlp(Model):
    """A fully connected network h_0 = x, h_{l+1} = phi(s_l W_l h_l + b_l), without phi after the last layer.

    Its parameters are "layers.{l}.weight" (widths[l + 1], widths[l]) and "layers.{l}.bias" (widths[l + 1],).

    Args:
        widths: Input dimension, hidden widths and output dimension; at least two numbers.
        activation: Name of phi, one of `planning.activations.ACTIVATIONS`.
        bias: Whether layers have biases b_l.
        parametrization: One of `PARAMETRIZATIONS`, for initial values, the scales s_l and learning rates.
        negative_slope: Slope of leaky-relu for negative inputs.

    Raises:
        InvalidProblemError: If there are fewer than two widths, a width is below 1, or a name is unknown.
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
        """Sizes of the layers, in order."""
        return [Layer(fan_in, fan_out) for fan_in, fan_out in pairwise(self.widths)]

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of weight and bias, layer by layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            shapes[f"layers.{index}.weight"] = (layer.fan_out, layer.fan_in)
            if self.bias:
                shapes[f"layers.{index}.bias"] = (layer.fan_out,)
        return shapes

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return the initial parameters of the parametrization."""
        rule = parametrization_named(self.parametrization)
        parameters = {}
        for index, layer in enumerate(self.layers):
            parameters[f"layers.{index}.weight"] = rule.initial_weight(layer, generator)
            if self.bias:
                parameters[f"layers.{index}.bias"] = rule.initial_bias(layer, generator)
        return {name: values.to(dtype=dtype, device=device) for name, values in parameters.items()}

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Return the factors of the parametrization."""
        rule = parametrization_named(self.parametrization)
        multipliers = {}
        for index, layer in enumerate(self.layers):
            multipliers[f"layers.{index}.weight"] = rule.weight_rate(layer)
            if self.bias:
                multipliers[f"layers.{index}.bias"] = rule.bias_rate(layer)
        return multipliers

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, widths[0])."""
        check_real_inputs(inputs, "mlp", "n", self.widths[0])

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with pre- and post-activations of every layer, inputs included."""
        return mlp_size(self.widths, self.bias, inputs.shape[0], activation=self.activation)

    def layer_names(self, index: int) -> tuple[str, str]:
        """Return the names of a layer's weight and bias."""
        return f"layers.{index}.weight", f"layers.{index}.bias"

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, widths[-1]) for inputs (n, widths[0])."""
        return self.forward(parameters, inputs)[0]

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, offsets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the outputs, and the vectors by which the weights are multiplied.

        Args:
            parameters: Parameters by name.
            inputs: Inputs of shape (n, widths[0]).
            offsets: Numbers (n, widths[l + 1]) that are added to the pre-activations of each layer; None for zeros.

        Returns:
            Outputs (n, widths[-1]), and s_l h_l (n, widths[l]) of each layer.
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
