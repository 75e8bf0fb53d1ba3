"""What every model offers: a function of (parameters, inputs), with no state of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from curvature.parameters import Parameters


class Model(ABC):
    """A pure function f(parameters, inputs) -> outputs (..., num_outputs), deterministic and twice differentiable."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Length of the last axis of the outputs: regression targets, classes or vocabulary."""

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by name, in the order of the flat vector."""

    @abstractmethod
    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Random parameters, drawn in float64 on the CPU and then cast.

        Precisions and devices so start from the same numbers.

        Args:  generator, a CPU generator, which moves on.
        """

    @abstractmethod
    def check_inputs(self, inputs: Tensor) -> None:
        """Make sure that the model is defined on `inputs`.

        Raises:  InvalidProblemError that says what does not fit.
        """

    @abstractmethod
    def num_activations(self, inputs: Tensor) -> int:
        """Numbers that one forward pass over `inputs` produces, as in `curvature.cost`."""

    @abstractmethod
    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (*sample axes, num_outputs)."""
