"""Tokens as one .npy file of uint16, or of uint32 where one needs it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

MAX_TOKEN = 2**31 - 1

Tokens = NDArray[np.integer[Any]]
Blocks = Callable[[], Iterator[Tokens]]
"""Reads tokens from their beginning, block by block."""


class UnfitTokensError(ValueError):
    """The numbers are no tokens."""


def counted(blocks: Iterator[Tokens]) -> tuple[int, int]:
    """Number of tokens, and the largest.

    Raises:
        UnfitTokensError: If there are none, or one is not in 0 .. 2^31 - 1.
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
    """The file."""
    dtype = np.dtype("<u2" if largest < 2**16 else "<u4")
    header = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (num_tokens,)}
    npy_format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for block in blocks:
        yield block.astype(dtype).tobytes()


def num_tokens_of(file: BinaryIO) -> int:
    """How many tokens a file that was written here holds; read from its beginning."""
    npy_format.read_magic(file)
    shape, _, _ = npy_format.read_array_header_1_0(file)
    return int(shape[0])


def mapped(path: Path) -> Tokens:
    """The tokens (num_tokens,): only what is looked at is read.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return cast("Tokens", np.load(path, mmap_mode="r", allow_pickle=False))
