"""Two linear layers between any numbers of inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hessian_spectrum.curvature.models.base import check_real_inputs
from hessian_spectrum.curvature.models.closed_form.base import ClosedFormNetwork, check_counts
from hessian_spectrum.planning.size import Size, mlp_size


@dataclass(frozen=True)
class TwoLayerLinear(ClosedFormNetwork):
    """f(x) = W2 W1 x for x (D,).

    Args:
        num_inputs: D, width m, output_dim K.
    Parameters:  "W1" (m, D) and "W2" (K, m).

    Raises:
        InvalidProblemError: On counts below 1.
    """

    num_inputs: int
    width: int
    output_dim: int

    def __post_init__(self) -> None:
        check_counts("two-layer-linear", self.num_inputs, self.width, self.output_dim)

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.output_dim

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """First layer, second layer."""
        return {"W1": (self.width, self.num_inputs), "W2": (self.output_dim, self.width)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, D), floating point and finite."""
        check_real_inputs(inputs, "two-layer-linear", "n", self.num_inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """Of both layers, as in an mlp."""
        widths = (self.num_inputs, self.width, self.output_dim)
        return mlp_size(widths, False, inputs.shape[0], "linear")

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, K) for inputs (n, D)."""
        return inputs @ parameters["W1"].T @ parameters["W2"].T


MODELS = {"two-layer-linear": TwoLayerLinear}
