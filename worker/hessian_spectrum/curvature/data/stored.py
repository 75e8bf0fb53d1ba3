"""Samples that stay on disk in the type in which they were stored, and are read a micro-batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset, SampleInputs
from hessian_spectrum.curvature.process_memory import release_freed_memory
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

_CPU = torch.device("cpu")

_NUMBERS_AT_ONCE = 2**19
"""Numbers that are in memory both as stored and as float64 while they are read."""

_RELEASE_BYTES = 2**22
"""Size of rows in bytes from which on freed memory is returned to the system before they are read: two sizes of batches
fragment the C library's heap, which grew in one run of three by as much as the whole data set."""


class Rows(Protocol):
    """An array outside of memory; a row is what stands at one index of the first axis."""

    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`."""
        ...


class Column:
    """Rows of one number each, as rows of length 1.

    Args:
        rows: An array (n,).
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.shape = (*rows.shape, 1)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`."""
        return self._rows.read(start, stop)[:, np.newaxis]


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Stored numbers s as a model takes them: (scale s - mean) / std.

    Attributes:
        scale: Factor.
        mean: Mean, a number or an array that broadcasts against rows.
        std: Standard deviation, likewise.
    """

    scale: float
    mean: NDArray[np.float64] | float
    std: NDArray[np.float64] | float

    def __call__(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the numbers of the model for rows of stored ones, which are changed in place."""
        numbers *= self.scale
        if np.any(self.mean):
            numbers -= self.mean
        if np.any(np.not_equal(self.std, 1)):
            numbers /= self.std
        return numbers


@dataclass(frozen=True, eq=False)
class StoredNumbers:
    """Some rows of a stored array, in the type and on the device in which they are used.

    Attributes:
        rows: The array.
        chosen: Indices of the rows, in order.
        dtype: Type of the numbers as they are used, float64 or float32 if they are real.
        device: Where they are used.
        scaling: Map of real numbers; None: they are used as they are stored.
    """

    rows: Rows
    chosen: range | NDArray[np.int64]
    dtype: torch.dtype
    device: torch.device = _CPU
    scaling: AffineMap | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the chosen rows together."""
        return (len(self.chosen), *self.rows.shape[1:])

    def pieces(self) -> Iterator[Tensor]:
        """Yield the rows in order, some at a time, on the CPU."""
        row_size = max(1, int(np.prod(self.rows.shape[1:], dtype=np.int64)))
        step = max(1, _NUMBERS_AT_ONCE // row_size)
        for start in range(0, len(self), step):
            yield self._converted(self._read(self.chosen[start : start + step]))

    def read(self) -> Tensor:
        """Return all rows."""
        whole, start = torch.empty(self.shape, dtype=self.dtype), 0
        if whole.nbytes > _RELEASE_BYTES:
            release_freed_memory()
        for piece in self.pieces():
            whole[start : start + len(piece)] = piece
            start += len(piece)
        return whole.to(self.device)

    def select(self, part: slice | NDArray[np.int64]) -> "StoredNumbers":
        """Return some of the rows by their positions among these."""
        if isinstance(part, slice) and isinstance(self.chosen, range):
            return replace(self, chosen=self.chosen[part])
        return replace(self, chosen=np.asarray(self.chosen, np.int64)[part])

    def to(self, dtype: torch.dtype, device: torch.device) -> "StoredNumbers":
        """Return the same rows on `device`, real numbers as `dtype`."""
        return replace(self, dtype=dtype if self.dtype.is_floating_point else self.dtype, device=device)

    def _read(self, chosen: range | NDArray[np.int64]) -> NDArray[Any]:
        if isinstance(chosen, range):
            return self.rows.read(chosen.start, chosen.stop)
        return np.concatenate([self.rows.read(index, index + 1) for index in map(int, chosen)])

    def _converted(self, numbers: NDArray[Any]) -> Tensor:
        is_exact = numbers.dtype.kind == "f" or numbers.dtype.itemsize < 8  # in float64, which is then rounded once
        if not self.dtype.is_floating_point or (self.scaling is None and is_exact):
            return torch.from_numpy(numbers.astype(_NUMPY_TYPES[self.dtype]))
        real = numbers.astype(np.float64)
        return torch.from_numpy(real if self.scaling is None else self.scaling(real)).to(self.dtype)


_NUMPY_TYPES = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


class StoredDataset(Dataset):
    """Samples on disk; their inputs and targets are read anew whenever they are asked for.

    Args:
        inputs: Inputs by name; one without a name for a model that takes a single tensor.
        targets: Targets; None stands for zeros (n, 1), for a loss without targets.

    Raises:
        InvalidProblemError: If there is no sample, or the numbers of samples differ.
    """

    def __init__(self, inputs: Mapping[str, StoredNumbers], targets: StoredNumbers | None) -> None:
        object.__setattr__(self, "_stored", dict(inputs))
        object.__setattr__(self, "_stored_targets", targets)
        lengths = {len(each) for each in self.numbers}
        if len(lengths) != 1 or lengths == {0}:
            raise InvalidProblemError(f"inputs and targets must have the same number of samples, not {sorted(lengths)}")

    _stored: dict[str, StoredNumbers]
    _stored_targets: StoredNumbers | None

    @property
    def numbers(self) -> Sequence[StoredNumbers]:
        """Inputs in order, and targets."""
        targets = () if self._stored_targets is None else (self._stored_targets,)
        return (*self._stored.values(), *targets)

    @property
    def inputs(self) -> SampleInputs:
        """Inputs, read from disk."""
        read = {name: each.read() for name, each in self._stored.items()}
        return read.get("", read)

    @property
    def targets(self) -> Tensor:
        """Targets, read from disk."""
        if self._stored_targets is not None:
            return self._stored_targets.read()
        first = next(iter(self._stored.values()))
        return torch.zeros(len(self), 1, device=first.device)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Nothing: what is read is not kept."""
        return ()

    def __len__(self) -> int:
        return len(self.numbers[0])

    def in_memory(self) -> Dataset:
        """Return the same samples in memory."""
        return Dataset(self.inputs, self.targets)

    def to(self, dtype: torch.dtype, device: torch.device) -> "StoredDataset":
        """Return the same samples, to be read onto `device`, real numbers as `dtype`."""
        targets = self._stored_targets
        return StoredDataset(
            {name: each.to(dtype, device) for name, each in self._stored.items()},
            None if targets is None else targets.to(dtype, device),
        )

    def take(self, indices: Tensor) -> "StoredDataset":
        """Return the samples at `indices` (k,), in that order."""
        return self._selected(indices.cpu().numpy())

    def _between(self, start: int, stop: int) -> "StoredDataset":
        return self._selected(slice(start, stop))

    def _selected(self, part: slice | NDArray[np.int64]) -> "StoredDataset":
        targets = self._stored_targets
        return StoredDataset(
            {name: each.select(part) for name, each in self._stored.items()},
            None if targets is None else targets.select(part),
        )
