"""Models whose classes lie along another axis than the last, as in PyTorch's losses of images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import SampleInputs
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.planning.size import Size


@dataclass(frozen=True, eq=False)
class ClassesLast(Model):
    """A model with its outputs (n, ..., K, ...) rearranged to (n, ..., K).

    Args:
        model: The model, of which an output of one sample has several axes.
        axis: Axis of the classes, from 1; axis 0 counts samples.
        output_axes: Lengths of the axes of the output of one sample.
    """

    model: Model
    axis: int
    output_axes: tuple[int, ...]

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return self.output_axes[self.axis - 1]

    @property
    def fixed_size(self) -> int | None:
        """The number of samples that the model takes; None if it may vary."""
        return self.model.fixed_size

    @property
    def is_built_in(self) -> bool:
        """Whether the operators of the model are known."""
        return self.model.is_built_in

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the model's parameters."""
        return self.model.parameter_shapes

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return those of the model."""
        return self.model.initial_parameters(generator, dtype, device)

    def check_inputs(self, inputs: SampleInputs) -> None:
        """Check the inputs of the model."""
        self.model.check_inputs(inputs)

    def size_on(self, inputs: SampleInputs) -> Size:
        """Return the size of the model."""
        return self.model.size_on(inputs)

    def sample_shape(self, inputs: SampleInputs) -> tuple[int, ...]:
        """Return the axes of the outputs without that of the classes."""
        return (self.model.sample_shape(inputs)[0], *self.output_axes[: self.axis - 1], *self.output_axes[self.axis :])

    def __call__(self, parameters: Mapping[str, Tensor], inputs: SampleInputs) -> Tensor:
        """Return the outputs with the classes last."""
        return self.model(parameters, inputs).movedim(self.axis, -1)

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Return those of the model."""
        return self.model.learning_rate_multipliers()
