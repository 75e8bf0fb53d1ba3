"""A quadratic form."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.base import check_real_inputs
from hessian_spectrum.curvature.models.closed_form.base import ClosedFormNetwork, check_counts
from hessian_spectrum.planning.size import Size, quadratic_size


@dataclass(frozen=True)
class QuadraticForm(ClosedFormNetwork):
    """f(A) = z^T A z / 2: the parameters are z, and the matrix A is the input, row by row in one vector.

    Its loss is `OutputValue`; the Hessian of their mean is the mean of (A + A^T) / 2.

    Args:
        size: P.
    Parameters:  "z" (P,).

    Raises:
        InvalidProblemError: On a size below 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_counts("a quadratic form", self.size)

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The point."""
        return {"z": (self.size,)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are (n, P^2), floating point and finite."""
        check_real_inputs(inputs, "quadratic", "n", self.size**2)

    def size_on(self, inputs: Tensor) -> Size:
        """The matrix, and its product with the point."""
        return quadratic_size(self.size, inputs.shape[0])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Values (n, 1) for matrices (n, P^2)."""
        z = parameters["z"]
        # matrices of 2 axes only: a recorded product of 3 axes has views that vmap cannot stride (PyTorch 2.13)
        return inputs @ torch.outer(z, z).reshape(-1, 1) / 2


MODELS = {"quadratic": QuadraticForm}
