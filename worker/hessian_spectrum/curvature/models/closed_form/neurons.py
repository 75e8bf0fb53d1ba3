"""Two layers of neurons with scalar input and output."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from hessian_spectrum.curvature.models.base import activation_named, check_real_inputs
from hessian_spectrum.curvature.models.closed_form.base import ClosedFormNetwork, check_counts
from hessian_spectrum.planning.size import Size, neuron_network_size


@dataclass(frozen=True)
class NeuronNetwork(ClosedFormNetwork):
    """f(x) = <w, phi(v x + b)>, b = 0 without bias: the kinds linear, relu, leaky-relu and linear-bias.

    Args:
        width: M.
        activation: Phi, one of `ACTIVATIONS`.
        negative_slope: Of leaky-relu.
        bias: Whether b exists.
    Parameters:  "w" (m,), "v" (m,) and "b" (m,).

    Raises:
        InvalidProblemError: On a width below 1 or an unknown activation.

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
        """One."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Second layer, first layer, its bias."""
        return dict.fromkeys("wvb" if self.bias else "wv", (self.width,))

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, 1), floating point and finite."""
        check_real_inputs(inputs, "network", "n", 1)

    def size_on(self, inputs: Tensor) -> Size:
        """Pre- and post-activations."""
        return neuron_network_size(self.width, self.bias, inputs.shape[0], self.activation)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, 1) for inputs (n, 1)."""
        hidden = inputs * parameters["v"]
        if self.bias:
            hidden = hidden + parameters["b"]
        return activation_named(self.activation, self.negative_slope)(hidden) @ parameters["w"].unsqueeze(-1)


MODELS = dict.fromkeys(("linear", "relu", "leaky-relu", "linear-bias"), NeuronNetwork)
