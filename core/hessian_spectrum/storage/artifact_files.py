"""The two forms of artifacts: arrays in a safetensors file, and tokens in a .npy file.

Arrays have one canonical form, by name and without gaps, little-endian, in C order, so that the same arrays make the
same bytes; the header also says which arrays hold whole numbers. Tokens are uint16, or uint32 where one needs it.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.artifacts import ArrayType, StoredArray, WholeNumbers
from hessian_spectrum.storage.npy_headers import read_npy_header

DTYPES: dict[ArrayType, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper halves of float32
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
"""Type of the stored numbers by its name in safetensors."""

IGNORED = -100
MAX_WHOLE_NUMBER = 2**53

_METADATA = "__metadata__"
_WHOLE_NUMBERS = "whole_numbers"
_BLOCK_NUMBERS = 2**17

MAX_TOKEN = 2**31 - 1

Tokens = NDArray[np.integer[Any]]
Blocks = Callable[[], Iterator[Tokens]]
"""Reads tokens from their beginning, block by block."""


class UnfitArrayError(ValueError):
    """An array that no job can use; its name begins the message."""


@dataclass(frozen=True)
class NamedArray:
    """An array in any byte order and order of axes; numbers of BF16 are represented by their bits."""

    dtype: ArrayType
    values: NDArray[Any]

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The numbers in canonical form, flat, a block at a time; a block is valid until the next one."""
        with np.nditer(
            self.values,
            flags=["external_loop", "buffered"],
            op_flags=["readonly"],
            op_dtypes=DTYPES[self.dtype],
            order="C",
            casting="equiv",
            buffersize=_BLOCK_NUMBERS,
        ) as blocks:
            yield from blocks


Arrays = Mapping[str, NamedArray]


def described(arrays: Arrays) -> dict[str, StoredArray]:
    """Describe arrays; every number is read.

    Args:
        arrays: The arrays.

    Returns:
        Type, shape and range of each array, by name.

    Raises:
        UnfitArrayError: An array holds NaN or infinity.
    """
    return {name: _described(name, array) for name, array in sorted(arrays.items())}


def safetensors_pieces(arrays: Arrays, headers: Mapping[str, StoredArray]) -> Iterator[bytes]:
    """The safetensors file of these arrays, in pieces; `headers` is what `described` returns for them."""
    whole = {name: array.whole_numbers.model_dump() for name, array in headers.items() if array.whole_numbers}
    return pieces_with_metadata(arrays, {_WHOLE_NUMBERS: json.dumps(whole)})


def pieces_with_metadata(arrays: Arrays, metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The safetensors file of arrays, in pieces, by name and without gaps; its header holds the metadata."""
    start, header = 0, {}
    for name, array in sorted(arrays.items()):
        shape = array.values.shape
        end = start + prod(shape) * DTYPES[array.dtype].itemsize
        header[name] = {"dtype": array.dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps({_METADATA: metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in header:
        for block in arrays[name].blocks():
            yield block.tobytes()


def read_metadata(file: BinaryIO) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and entries of the header of a file that was written here; it is read from its beginning."""
    fields = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return fields.pop(_METADATA), fields


def read_header(file: BinaryIO) -> dict[str, StoredArray]:
    """Description of the arrays in a file that was written here; the file is read from its beginning."""
    metadata, fields = read_metadata(file)
    whole = json.loads(metadata[_WHOLE_NUMBERS])
    return {
        name: StoredArray.model_validate(
            {"dtype": field["dtype"], "shape": field["shape"], "whole_numbers": whole.get(name)}
        )
        for name, field in fields.items()
    }


def _described(name: str, array: NamedArray) -> StoredArray:
    whole: WholeNumbers | None = WholeNumbers(num_ignored=0)
    for block in array.blocks():
        if array.dtype == "BOOL" and block.view(np.uint8).max() > 1:
            raise UnfitArrayError(f"{name} must hold truth values: bytes that are 0 or 1")
        numbers = widened(array.dtype, block)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise UnfitArrayError(f"{name} must be finite: no NaN, no infinity")
        whole = whole and _extended(whole, numbers)
    return StoredArray(dtype=array.dtype, shape=list(array.values.shape), whole_numbers=whole)


def widened(dtype: ArrayType, block: NDArray[Any]) -> NDArray[Any]:
    """Return stored numbers as numbers of numpy: those of BF16, which numpy lacks, as float32."""
    return (block.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else block


def _extended(range_so_far: WholeNumbers, numbers: NDArray[Any]) -> WholeNumbers | None:
    """The description extended by these numbers; None if one of them is not whole."""
    if numbers.dtype.kind == "f" and not np.array_equal(numbers, np.rint(numbers)):
        return None
    others = numbers[numbers != IGNORED]
    num_ignored = range_so_far.num_ignored + numbers.size - others.size
    if not others.size:
        return range_so_far.model_copy(update={"num_ignored": num_ignored})
    smallest, largest = int(others.min()), int(others.max())
    if range_so_far.smallest is not None and range_so_far.largest is not None:
        smallest, largest = min(smallest, range_so_far.smallest), max(largest, range_so_far.largest)
    if max(-smallest, largest) > MAX_WHOLE_NUMBER:
        return None
    return WholeNumbers(smallest=smallest, largest=largest, num_ignored=num_ignored)


class UnfitTokensError(ValueError):
    """The numbers are not tokens."""


def counted(blocks: Iterator[Tokens]) -> tuple[int, int]:
    """Count tokens.

    Args:
        blocks: The tokens, block by block.

    Returns:
        The number of tokens, and the largest.

    Raises:
        UnfitTokensError: There are none, or one is not in 0 .. 2^31 - 1.
    """
    num_tokens, largest = 0, -1
    for block in blocks:
        smallest, largest = int(block.min()), max(largest, int(block.max()))
        if smallest < 0 or largest > MAX_TOKEN:
            raise UnfitTokensError(f"holds {smallest if smallest < 0 else largest}, and tokens are 0 to {MAX_TOKEN}")
        num_tokens += len(block)
    if not num_tokens:
        raise UnfitTokensError("holds no tokens")
    return num_tokens, largest


def npy_pieces(num_tokens: int, largest: int, blocks: Iterator[Tokens]) -> Iterator[bytes]:
    """The .npy file of these tokens, in pieces."""
    dtype = np.dtype("<u2" if largest < 2**16 else "<u4")
    header = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (num_tokens,)}
    npy_format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for block in blocks:
        yield block.astype(dtype).tobytes()


def num_tokens_of(file: BinaryIO) -> int:
    """Number of tokens in a file that was written here; the file is read from its beginning."""
    shape, _, _ = read_npy_header(file)
    return shape[0]


def mapped(path: Path) -> Tokens:
    """Map the tokens of a file into memory.

    Args:
        path: Path of the file.

    Returns:
        The tokens (num_tokens,), which are read from the disk when they are used.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return cast("Tokens", np.load(path, mmap_mode="r", allow_pickle=False))
