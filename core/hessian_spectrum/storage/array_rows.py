"""Rows of stored arrays, read from disk a few at a time, so that a data set need not fit into memory.

Files are read by position and not mapped: pages of a mapped file count as memory of the process that touches them.
"""

import hashlib
import io
import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.artifacts import ArrayType
from hessian_spectrum.storage.artifact_files import DTYPES, read_metadata, widened

_HASHED_BYTES = 2**22


class FileTooShortError(OSError):
    """A file ends before the rows that its header describes."""


class OpenFile:
    """A file that stays readable after its name is deleted, until nothing refers to it.

    Args:
        path: Path of the file.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes from an offset.

        Raises:
            FileTooShortError: The file ends earlier.
        """
        while buffer:
            count = os.preadv(self._descriptor, [buffer], offset)
            if not count:
                raise FileTooShortError
            buffer, offset = buffer[count:], offset + count

    def sha256(self) -> str:
        """SHA-256 of the file in hexadecimal."""
        digest, offset = hashlib.sha256(), 0
        while block := os.pread(self._descriptor, _HASHED_BYTES, offset):
            digest.update(block)
            offset += len(block)
        return digest.hexdigest()


class ArrayRows:
    """The rows of one array of a file; a row is what stands at one index of the first axis.

    Args:
        file: File of arrays.
        offset: Position of the array's first byte.
        dtype: Type of the stored numbers.
        shape: Shape of the array.
    """

    def __init__(self, file: OpenFile, offset: int, *, dtype: ArrayType, shape: Sequence[int]) -> None:
        self._file, self._offset = file, offset
        self.dtype: ArrayType = dtype
        self.shape = tuple(shape)
        self._row_bytes = prod(self.shape[1:]) * DTYPES[dtype].itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`, in a copy.

        Raises:
            FileTooShortError: The file ends earlier.
        """
        rows = np.empty((stop - start, *self.shape[1:]), DTYPES[self.dtype])
        self._file.read_into(rows.reshape(-1).view(np.uint8).data, self._offset + start * self._row_bytes)
        return widened(self.dtype, rows)


class JoinedRows:
    """The rows of several arrays of one type and row shape, one after the other.

    Args:
        parts: The arrays.
    """

    def __init__(self, parts: Sequence[ArrayRows]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self.dtype: ArrayType = parts[0].dtype
        self.shape = (self._ends[-1], *parts[0].shape[1:])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`, in a copy.

        Raises:
            FileTooShortError: A file ends earlier.
        """
        first = bisect_right(self._ends, start)
        pieces = []
        while start < stop:
            part, end = self._parts[first], self._ends[first]
            before = end - len(part)
            pieces.append(part.read(start - before, min(stop, end) - before))
            start, first = end, first + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def array_rows(file: OpenFile) -> dict[str, ArrayRows]:
    """Return the rows of the arrays by name, in a file of arrays that was written here."""
    length = bytearray(8)
    file.read_into(memoryview(length), 0)
    header = bytearray(int.from_bytes(length, "little"))
    file.read_into(memoryview(header), len(length))
    _, fields = read_metadata(io.BytesIO(length + header))
    start = len(length) + len(header)
    return {
        name: ArrayRows(file, start + field["data_offsets"][0], dtype=field["dtype"], shape=field["shape"])
        for name, field in fields.items()
    }
