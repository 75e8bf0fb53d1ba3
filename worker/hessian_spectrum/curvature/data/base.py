"""Samples: inputs with their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.quadrature.exceptions import InvalidProblemError

SampleInputs = Any
"""Inputs of a model: a tensor (n, ...), or several by name where the model is a program that takes several."""


def input_tensors(inputs: SampleInputs) -> Sequence[Tensor]:
    """Return the tensors of inputs, of which there is one unless they have names."""
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else (inputs,)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a data set; integer targets are class labels or tokens, floating-point targets are regression values.

    Args:
        inputs: Inputs of shape (n, ...), or several such tensors by name.
        targets: Targets of shape (n, ...).

    Raises:
        InvalidProblemError: If there is no sample, or the numbers of inputs and targets differ.
    """

    inputs: SampleInputs
    targets: Tensor  # (n, ...)

    def __post_init__(self) -> None:
        for each in input_tensors(self.inputs):
            if each.ndim == 0 or self.targets.ndim == 0 or len(each) != len(self.targets):
                shapes = f"{tuple(each.shape)} and {tuple(self.targets.shape)}"
                raise InvalidProblemError(
                    f"inputs and targets must have the same number of samples, not shapes {shapes}"
                )
        if len(self) == 0:
            raise InvalidProblemError("a dataset needs at least one sample")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Inputs and targets that are in memory as long as the data set is."""
        return (*input_tensors(self.inputs), self.targets)

    @property
    def numbers(self) -> Sequence[Any]:
        """Inputs in order, and targets: tensors, or `StoredNumbers` of samples on disk."""
        return self.tensors

    def in_memory(self) -> "Dataset":
        """Return the same samples in memory."""
        return self

    def to(self, dtype: torch.dtype, device: torch.device) -> "Dataset":
        """Return the same samples on `device`, real numbers as `dtype`; integers keep their type."""
        inputs = {name: _cast(each, dtype, device) for name, each in self._named.items()}
        return self._of(inputs, _cast(self.targets, dtype, device))

    def split(self, batch_size: int | None) -> "tuple[Dataset, ...]":
        """Split the samples, in their order, into micro-batches.

        Args:
            batch_size: Number of samples of each micro-batch; the last one may be smaller. None keeps all in one.

        Returns:
            The micro-batches.

        Raises:
            InvalidProblemError: If the batch size is below 1.
        """
        if batch_size is None:
            return (self,)
        if batch_size < 1:
            raise InvalidProblemError(f"a batch needs at least one sample, not {batch_size}")
        return tuple(self._between(start, start + batch_size) for start in range(0, len(self), batch_size))

    def take(self, indices: Tensor) -> "Dataset":
        """Return the samples at `indices` (k,), in that order."""
        indices = indices.to(self.targets.device)
        return self._of({name: each[indices] for name, each in self._named.items()}, self.targets[indices])

    def _between(self, start: int, stop: int) -> "Dataset":
        """Return the samples from `start` to before `stop`, or before the end of the data set."""
        return self._of({name: each[start:stop] for name, each in self._named.items()}, self.targets[start:stop])

    @property
    def _named(self) -> Mapping[str, Tensor]:
        """Inputs by name, which is empty for inputs without one."""
        return self.inputs if isinstance(self.inputs, Mapping) else {"": self.inputs}

    def _of(self, named: Mapping[str, Tensor], targets: Tensor) -> "Dataset":
        return Dataset(named if isinstance(self.inputs, Mapping) else named[""], targets)


def _cast(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
