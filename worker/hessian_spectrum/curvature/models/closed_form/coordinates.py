"""One two-layer linear network per input or per output."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hessian_spectrum.curvature.models.base import check_real_inputs
from hessian_spectrum.curvature.models.closed_form.base import ClosedFormNetwork, check_counts
from hessian_spectrum.planning.size import Size, coordinate_network_size


@dataclass(frozen=True)
class MultiInput(ClosedFormNetwork):
    """f(x) = sum_d <w_d, v_d> x_d for x (D,).

    Args:
        num_inputs: D, width m.
    Parameters:  "w" and "v" (D, m).

    Raises:
        InvalidProblemError: On counts below 1.

    References:
        Cracking the Hessian, Corollary B.1.
    """

    num_inputs: int
    width: int

    def __post_init__(self) -> None:
        check_counts("multi-input", self.num_inputs, self.width)

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Second layer, first layer."""
        return dict.fromkeys("wv", (self.num_inputs, self.width))

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, D), floating point and finite."""
        check_real_inputs(inputs, "multi-input", "n", self.num_inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """Slopes and outputs."""
        return coordinate_network_size(self.num_inputs, 1, self.width, inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, 1) for inputs (n, D)."""
        return inputs @ (parameters["w"] * parameters["v"]).sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class MultiOutput(ClosedFormNetwork):
    """f_k(x) = <w_k, v_k> x for scalar x and K outputs.

    Args:
        num_coordinates: K, width m.
    Parameters:  "w" and "v" (K, m).

    Raises:
        InvalidProblemError: On counts below 1.

    References:
        Cracking the Hessian, Corollary B.2.
    """

    num_coordinates: int
    width: int

    def __post_init__(self) -> None:
        check_counts("multi-output", self.num_coordinates, self.width)

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_coordinates

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Second layer, first layer."""
        return dict.fromkeys("wv", (self.num_coordinates, self.width))

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, 1), floating point and finite."""
        check_real_inputs(inputs, "multi-output", "n", 1)

    def size_on(self, inputs: Tensor) -> Size:
        """Slopes and outputs."""
        return coordinate_network_size(1, self.num_coordinates, self.width, inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, K) for inputs (n, 1)."""
        return inputs * (parameters["w"] * parameters["v"]).sum(dim=-1)


MODELS: dict[str, type[ClosedFormNetwork]] = {"multi-input": MultiInput, "multi-output": MultiOutput}
