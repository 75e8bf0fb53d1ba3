"""Conversion between named parameters and one flat vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hessian_spectrum.quadrature.errors import InvalidProblemError

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class ParameterLayout:
    """Order and shape of the parameters inside the flat vector theta (P,)."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "ParameterLayout":
        """Layout of parameters of these shapes, in the order of the mapping."""
        return cls(tuple(shapes), tuple(shapes.values()))

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [prod(shape) for shape in self.shapes]

    @property
    def dim(self) -> int:
        """Number P of entries of all parameters."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """One vector (P,) in the order of `names`.

        Args:
            parameters: Parameters by name, of the layout's shapes.

        Returns:
            The flat vector.

        Raises:
            InvalidProblemError: If names or shapes differ from the layout.
        """
        self.check(parameters)
        return torch.cat([parameters[name].reshape(-1) for name in self.names])

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Check that names and shapes are those of the layout.

        Args:
            parameters: Parameters by name.

        Raises:
            InvalidProblemError: If names or shapes differ; the message says which.
        """
        if set(parameters) != set(self.names):
            raise InvalidProblemError(f"parameters {sorted(parameters)} where {sorted(self.names)} were expected")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(parameters[name].shape) != shape:
                raise InvalidProblemError(f"{name} has shape {tuple(parameters[name].shape)}, not {shape}")

    def unflatten(self, vector: Tensor) -> Parameters:
        """Views of `vector` (P,) by name."""
        # split, not slices: its backward is one cat, that of slices one zero-padded vector (P,) per parameter
        pieces = torch.split(vector, self.sizes)
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}
