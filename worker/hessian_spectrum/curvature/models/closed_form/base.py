"""What the networks that have a formula share."""

from abc import ABC

import torch

from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.quadrature.errors import InvalidProblemError


class ClosedFormNetwork(Model, ABC):
    """A model that is asked for at given weights; random ones are standard normal."""

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Independent standard normal numbers."""
        draw = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in self.parameter_shapes.items()}
        return {name: values.to(dtype=dtype, device=device) for name, values in draw.items()}


def check_counts(kind: str, *counts: int) -> None:
    """Make sure that every count is at least 1.

    Raises:
        InvalidProblemError: Model, data or options do not fit together.
    """
    if min(counts) < 1:
        raise InvalidProblemError(f"every dimension of {kind} must be at least 1, not {counts}")
