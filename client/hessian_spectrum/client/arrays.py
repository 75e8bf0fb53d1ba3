"""Arrays as the server stores them: a safetensors file whose digest is the id of the artifact."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.data.uploaded import TARGETS
from hessian_spectrum.client.errors import SpectrumClientError

_IGNORED = -100
_MAX_WHOLE_NUMBER = 2**53
_BLOCK_NUMBERS = 2**17

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("<u1"),
    "BOOL": np.dtype("?"),
}
"""Type of the stored numbers by its name in safetensors; BF16 are the upper halves of float32."""

_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "BF16"}


class UnfitArrayError(SpectrumClientError):
    """An array that the server does not accept; the message says why."""


@dataclass(frozen=True)
class NamedArray:
    """Numbers with the name of their type in safetensors."""

    dtype: str
    values: NDArray[Any]

    def __getitem__(self, part: slice) -> "NamedArray":
        return NamedArray(self.dtype, self.values[part])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def num_bytes(self) -> int:
        """Size of the numbers in bytes."""
        return prod(self.values.shape) * _DTYPES[self.dtype].itemsize

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the numbers in C order, little-endian and flat, a block at a time, each valid until the next."""
        with np.nditer(
            self.values,
            flags=["external_loop", "buffered"],
            op_flags=["readonly"],
            op_dtypes=_DTYPES[self.dtype],
            order="C",
            casting="equiv",
            buffersize=_BLOCK_NUMBERS,
        ) as blocks:
            yield from blocks


def sample_arrays(x: Any, y: Any) -> dict[str, NamedArray]:
    """Return inputs and targets as arrays by name, without copies of numbers.

    Args:
        x: Inputs, or several by name.
        y: Targets; None if there are none.

    Returns:
        The arrays by name: x, or the names of the inputs; and y.

    Raises:
        UnfitArrayError: If an array has a type that the server does not accept, or the numbers of samples differ.
    """
    inputs = dict(x) if isinstance(x, Mapping) else {"x": x}
    if TARGETS in inputs or not inputs:
        raise UnfitArrayError("inputs need names other than y, the name of the targets")
    given = inputs if y is None else {**inputs, TARGETS: y}
    arrays = {name: named_array(name, values) for name, values in given.items()}
    for name, array in arrays.items():
        if array.values.ndim == 0:
            raise UnfitArrayError(f"{name} is one number; its first axis must be that of the samples")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UnfitArrayError(f"arrays must have the same number of samples, not {lengths}")
    return arrays


def named_array(name: str, values: Any) -> NamedArray:
    """Return an array or a tensor as it is stored, without a copy of numbers in the memory of the host.

    Args:
        name: Name of the array, for messages.
        values: The numbers.

    Returns:
        The array.

    Raises:
        UnfitArrayError: If the server does not accept the type.
    """
    if hasattr(values, "detach"):  # a tensor of torch, whose bfloat16 numpy does not have
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            import torch  # noqa: PLC0415 - the caller has loaded it

            return NamedArray("BF16", values.contiguous().view(torch.uint16).numpy())
    array = np.asarray(values)
    dtype = _NAMES.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise UnfitArrayError(f"{name} holds {array.dtype}; give float16, float32, float64, integers or booleans")
    return NamedArray(dtype, array)


def file_pieces(arrays: Mapping[str, NamedArray]) -> Iterator[bytes]:
    """Yield the file of arrays as the server stores it, so that its SHA-256 is the id of the artifact.

    Args:
        arrays: The arrays by name.

    Yields:
        The file in pieces.

    Raises:
        UnfitArrayError: If an array holds NaN or infinity.
    """
    whole = {name: ends for name in sorted(arrays) if (ends := _whole_numbers(name, arrays[name])) is not None}
    header: dict[str, Any] = {"__metadata__": {"whole_numbers": json.dumps(whole)}}
    start = 0
    for name in sorted(arrays):
        end = start + arrays[name].num_bytes
        header[name] = {
            "dtype": arrays[name].dtype,
            "shape": list(arrays[name].values.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in sorted(arrays):
        for block in arrays[name].blocks():
            yield block.tobytes()


def _whole_numbers(name: str, array: NamedArray) -> dict[str, int | None] | None:
    """Return the range of an array of whole numbers, without those that are ignored; None for others."""
    smallest: int | None = None
    largest: int | None = None
    num_ignored = 0
    for block in array.blocks():
        numbers = (block.astype(np.uint32) << 16).view(np.float32) if array.dtype == "BF16" else block
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise UnfitArrayError(f"{name} must be finite: no NaN, no infinity")
        if numbers.dtype.kind == "f" and not np.array_equal(numbers, np.rint(numbers)):
            return None
        others = numbers[numbers != _IGNORED]
        num_ignored += numbers.size - others.size
        if not others.size:
            continue
        first, last = int(others.min()), int(others.max())
        smallest = first if smallest is None else min(first, smallest)
        largest = last if largest is None else max(last, largest)
        if max(-smallest, largest) > _MAX_WHOLE_NUMBER:
            return None
    return {"smallest": smallest, "largest": largest, "num_ignored": num_ignored}
