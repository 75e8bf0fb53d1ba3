"""Networks whose Hessian has a formula; their parameters have the names and the order of the formula."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.base import Model, Parameters, activation_named, check_real_inputs
from hessian_spectrum.planning.size import Size, coordinate_network_size, mlp_size, neuron_network_size, quadratic_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


class ClosedFormNetwork(Model, ABC):
    """A model that is normally evaluated at given weights; random ones are standard normal."""

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return independent standard normal numbers."""
        draw = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in self.parameter_shapes.items()}
        return {name: values.to(dtype=dtype, device=device) for name, values in draw.items()}


def check_counts(kind: str, *counts: int) -> None:
    """Check that counts are at least 1.

    Args:
        kind: Name of the model for the message.
        *counts: Dimensions of the model.

    Raises:
        InvalidProblemError: If one is smaller.
    """
    if min(counts) < 1:
        raise InvalidProblemError(f"every dimension of {kind} must be at least 1, not {counts}")


@dataclass(frozen=True)
class NeuronNetwork(ClosedFormNetwork):
    """Two layers of neurons with scalar input and output, f(x) = <w, phi(v x + b)>.

    These are the kinds linear, relu, leaky-relu and linear-bias. The parameters are "w" (m,), "v" (m,) and, with bias,
    "b" (m,).

    Args:
        width: Number m of neurons.
        activation: Name of phi, one of `planning.activations.ACTIVATIONS`.
        negative_slope: Slope of leaky-relu for negative inputs.
        bias: Whether there is a bias b.

    Raises:
        InvalidProblemError: If the width is below 1, or the activation is unknown.

    References:
        Cracking the Hessian, sections 3.1 and 3.4, appendix B.1.
    """

    width: int
    activation: str = "linear"
    _: KW_ONLY
    negative_slope: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        check_counts("a network", self.width)
        activation_named(self.activation, self.negative_slope)

    @property
    def num_outputs(self) -> int:
        """Number of outputs, 1."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the second layer, the first layer, and its bias."""
        return dict.fromkeys("wvb" if self.bias else "wv", (self.width,))

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, 1)."""
        check_real_inputs(inputs, "network", "n", 1)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with pre- and post-activations."""
        return neuron_network_size(self.width, self.bias, inputs.shape[0], activation=self.activation)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, 1) for inputs (n, 1)."""
        hidden = inputs * parameters["v"]
        if self.bias:
            hidden = hidden + parameters["b"]
        return activation_named(self.activation, self.negative_slope)(hidden) @ parameters["w"].unsqueeze(-1)


@dataclass(frozen=True)
class MultiInput(ClosedFormNetwork):
    """A sum of two-layer linear networks, one for each input: f(x) = sum_d <w_d, v_d> x_d for x (D,).

    The parameters are "w" and "v" (D, m).

    Args:
        num_inputs: Number D of inputs.
        width: Number m of hidden units of each network.

    Raises:
        InvalidProblemError: If a count is below 1.

    References:
        Cracking the Hessian, Corollary B.1.
    """

    num_inputs: int
    width: int

    def __post_init__(self) -> None:
        check_counts("multi-input", self.num_inputs, self.width)

    @property
    def num_outputs(self) -> int:
        """Number of outputs, 1."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the second and the first layer."""
        return dict.fromkeys("wv", (self.num_inputs, self.width))

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, D)."""
        check_real_inputs(inputs, "multi-input", "n", self.num_inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with slopes and outputs."""
        return coordinate_network_size(self.num_inputs, 1, width=self.width, num_samples=inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, 1) for inputs (n, D)."""
        return inputs @ (parameters["w"] * parameters["v"]).sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class MultiOutput(ClosedFormNetwork):
    """Two-layer linear networks, one for each output: f_k(x) = <w_k, v_k> x for scalar x.

    The parameters are "w" and "v" (K, m).

    Args:
        num_coordinates: Number K of outputs.
        width: Number m of hidden units of each network.

    Raises:
        InvalidProblemError: If a count is below 1.

    References:
        Cracking the Hessian, Corollary B.2.
    """

    num_coordinates: int
    width: int

    def __post_init__(self) -> None:
        check_counts("multi-output", self.num_coordinates, self.width)

    @property
    def num_outputs(self) -> int:
        """Number K of outputs."""
        return self.num_coordinates

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the second and the first layer."""
        return dict.fromkeys("wv", (self.num_coordinates, self.width))

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, 1)."""
        check_real_inputs(inputs, "multi-output", "n", 1)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with slopes and outputs."""
        return coordinate_network_size(1, self.num_coordinates, width=self.width, num_samples=inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, K) for inputs (n, 1)."""
        return inputs * (parameters["w"] * parameters["v"]).sum(dim=-1)


@dataclass(frozen=True)
class TwoLayerLinear(ClosedFormNetwork):
    """Two linear layers f(x) = W2 W1 x between any numbers of inputs and outputs.

    The parameters are "W1" (m, D) and "W2" (K, m).

    Args:
        num_inputs: Number D of inputs.
        width: Number m of hidden units.
        output_dim: Number K of outputs.

    Raises:
        InvalidProblemError: If a count is below 1.
    """

    num_inputs: int
    width: int
    output_dim: int

    def __post_init__(self) -> None:
        check_counts("two-layer-linear", self.num_inputs, self.width, self.output_dim)

    @property
    def num_outputs(self) -> int:
        """Number K of outputs."""
        return self.output_dim

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the first and the second layer."""
        return {"W1": (self.width, self.num_inputs), "W2": (self.output_dim, self.width)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, D)."""
        check_real_inputs(inputs, "two-layer-linear", "n", self.num_inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, which is that of an mlp."""
        widths = (self.num_inputs, self.width, self.output_dim)
        return mlp_size(widths, False, inputs.shape[0], activation="linear")

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, K) for inputs (n, D)."""
        return inputs @ parameters["W1"].T @ parameters["W2"].T


@dataclass(frozen=True)
class QuadraticForm(ClosedFormNetwork):
    """A quadratic form f(A) = z^T A z / 2 of the parameters "z" (P,), with the matrix A as input, row by row.

    With the loss `OutputValue`, the Hessian of the mean over inputs is the mean of (A + A^T) / 2.

    Args:
        size: Number P of parameters.

    Raises:
        InvalidProblemError: If the size is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_counts("a quadratic form", self.size)

    @property
    def num_outputs(self) -> int:
        """Number of outputs, 1."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of z."""
        return {"z": (self.size,)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, P^2)."""
        check_real_inputs(inputs, "quadratic", "n", self.size**2)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with the matrix and its product with z."""
        return quadratic_size(self.size, inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return values (n, 1) for matrices (n, P^2)."""
        z = parameters["z"]
        # matrices of 2 axes only: a recorded product of 3 axes has views that vmap cannot stride (PyTorch 2.13)
        return inputs @ torch.outer(z, z).reshape(-1, 1) / 2


@dataclass(frozen=True)
class SelfAttention(ClosedFormNetwork):
    """Self-attention on sequences of scalars: an `AttentionLayer` with the parameter names of the formula.

    The parameters are "w_v" (), "w_q" (d_K,) and "w_k" (d_K,).

    Args:
        key_dim: Length d_K of queries and keys.
        sink_bias: Number that is added to all scores of the first position, as key.
        activation: One of `SCORE_ACTIVATIONS`.

    Raises:
        InvalidProblemError: As raised by `AttentionLayer`.

    References:
        Cracking the Hessian, section 3.3.
    """

    key_dim: int
    sink_bias: float = 0.0
    activation: str = "softmax"

    def __post_init__(self) -> None:
        _ = self.layer  # checks the arguments

    @cached_property
    def layer(self) -> AttentionLayer:
        """The layer with matrices of one row."""
        return AttentionLayer(1, self.key_dim, 1, sink_bias=self.sink_bias, activation=self.activation)

    @property
    def num_outputs(self) -> int:
        """Number of outputs, 1."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of values, queries and keys."""
        return {"w_v": (), "w_q": (self.key_dim,), "w_k": (self.key_dim,)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, L, 1)."""
        self.layer.check_inputs(inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size of the layer."""
        return self.layer.size_on(inputs)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, L, 1) for sequences (n, L, 1)."""
        matrices = {name: parameters[name.lower()].reshape(1, -1) for name in ("W_V", "W_Q", "W_K")}
        return self.layer(matrices, inputs)


MODELS: dict[str, type[ClosedFormNetwork]] = {
    **dict.fromkeys(("linear", "relu", "leaky-relu", "linear-bias"), NeuronNetwork),
    "multi-input": MultiInput,
    "multi-output": MultiOutput,
    "two-layer-linear": TwoLayerLinear,
    "quadratic": QuadraticForm,
    "self-attention": SelfAttention,
}
