"""Data sets in parts: files that are uploaded one by one, each named by its digest, so that an upload can continue."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hessian_spectrum.api_schemas.data.uploaded import MAX_PARTS
from hessian_spectrum.client.arrays import NamedArray, file_pieces, sample_arrays

PART_BYTES = 2**26
"""Size in bytes of the numbers in a part, by default."""

UploadProgress = Callable[[int, int], None]
"""Called after each part with the number of bytes that the server has, and with the total number of bytes."""


def ignore_progress(done_bytes: int, total_bytes: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Part:
    """Some of the samples, as a file.

    Attributes:
        arrays: Arrays by name.
    """

    arrays: Mapping[str, NamedArray]

    @property
    def num_bytes(self) -> int:
        """Size of the numbers in bytes."""
        return sum(each.num_bytes for each in self.arrays.values())

    @cached_property
    def content(self) -> bytes:
        """The file."""
        return b"".join(file_pieces(self.arrays))

    @property
    def id(self) -> str:
        """Id that the server gives the file, unless it stores arrays in another way."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class DataSet:
    """Samples that are uploaded in parts.

    Attributes:
        arrays: Arrays by name, which may be mapped files.
        part_bytes: Size in bytes of the numbers in a part.
    """

    arrays: Mapping[str, NamedArray]
    part_bytes: int = PART_BYTES

    @classmethod
    def of(cls, x: Any, y: Any, part_bytes: int) -> "DataSet":
        """Return the data set of inputs and targets.

        Raises:
            UnfitArrayError: If an array has a type that the server does not accept, or the numbers of samples differ.
        """
        return cls(sample_arrays(x, y), part_bytes)

    @property
    def num_bytes(self) -> int:
        """Size of the numbers in bytes."""
        return sum(each.num_bytes for each in self.arrays.values())

    def parts(self) -> Iterator[Part]:
        """Yield the parts in the order of their samples; equal data sets have equal parts."""
        num_samples = len(next(iter(self.arrays.values())))
        num_parts = min(MAX_PARTS, max(1, self.num_bytes // max(1, self.part_bytes)))
        step = max(1, -(-num_samples // num_parts))
        for start in range(0, num_samples, step):
            yield Part({name: array[start : start + step] for name, array in self.arrays.items()})


def parts_reference(ids: list[str]) -> dict[str, Any]:
    """Return the field `data` of a request that refers to uploaded parts."""
    return {"kind": "parts", "parts": ids}
