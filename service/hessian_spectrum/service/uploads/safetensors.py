"""safetensors files in memory: the header is checked here, strictly, before anything else looks at the file."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.artifacts import ArrayType
from hessian_spectrum.service.problems import invalid_field, malformed_upload
from hessian_spectrum.service.uploads.npz import NO_SHAPE, is_shape
from hessian_spectrum.storage.artifact_files import DTYPES, NamedArray

MAX_HEADER_BYTES = 2**20
"""Largest size of a header in bytes: far more than names, types and offsets of the accepted arrays take."""

_LENGTH_BYTES = 8
_MAX_AXES = 64
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


class _DamagedError(ValueError):
    """Raised if a file is damaged; the message says what is wrong."""


def may_be_safetensors(head: bytes, num_bytes: int) -> bool:
    """Return whether a file of this size and beginning looks like a safetensors file."""
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 2] == b'{"' and length <= num_bytes - _LENGTH_BYTES


def safetensors_arrays(body: memoryview) -> Iterator[tuple[str, NamedArray]]:
    """Read the arrays of a safetensors file.

    Args:
        body: The bytes of the file.

    Yields:
        The name of an entry as the file has it and its array, a view of `body`.

    Raises:
        ProblemError: 400 for a file that is damaged or not a safetensors file; 422 for an array without numbers.
    """
    try:
        header, start = _header(body)
        entries = [(name, *_entry(name, entry)) for name, entry in header.items()]
        _check_covered([(first, last) for *_, first, last in entries], len(body) - start)
    except _DamagedError as error:
        raise malformed_upload(f"The body is not a valid safetensors file: {error}.") from None
    for name, dtype, shape, first, last in entries:
        if not is_shape(shape):
            raise invalid_field((name[:64],), NO_SHAPE)
        content = body[start + first : start + last]
        yield name, NamedArray(dtype, np.frombuffer(content, DTYPES[dtype]).reshape(shape))


def _header(body: memoryview) -> tuple[dict[str, Any], int]:
    """Return the entries of the header without the metadata, and the offset at which the numbers begin."""
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + length
    if len(body) < _LENGTH_BYTES or length > MAX_HEADER_BYTES or end > len(body):
        raise _DamagedError(f"its header is longer than the file or than {MAX_HEADER_BYTES} bytes")
    text = bytes(body[_LENGTH_BYTES:end])
    if not text.startswith(b"{"):
        raise _DamagedError("its header is not a JSON object")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, _DamagedError) else "its header is not JSON"
        raise _DamagedError(str(reason)) from None
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _DamagedError(f"{_METADATA} holds values that are not texts")
    return header, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise _DamagedError("a key occurs twice in its header")
    return unique


def _no_constant(name: str) -> None:
    raise _DamagedError("its header holds a number that is not finite")


def _entry(name: str, entry: Any) -> tuple[ArrayType, list[int], int, int]:
    """Return type, shape, first offset and last offset of an entry."""
    what = f"the entry {name[:64]!a}"
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise _DamagedError(f"{what} must hold exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _DamagedError(f"{what} must have one of the types {', '.join(DTYPES)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _DamagedError(f"{what} has a shape or offsets that are not non-negative integers")
    if len(shape) > _MAX_AXES:  # the product of very many is a number that takes minutes
        raise _DamagedError(f"{what} has more than {_MAX_AXES} axes")
    if offsets[1] - offsets[0] != prod(shape) * DTYPES[dtype].itemsize:
        raise _DamagedError(f"{what} does not have the size that its shape implies")
    return dtype, shape, offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_covered(entries: list[tuple[int, int]], num_bytes: int) -> None:
    """Check that every byte belongs to exactly one entry."""
    end = 0
    for first, last in sorted(entries):
        if first != end:
            raise _DamagedError("its arrays overlap, or there are gaps between them")
        end = last
    if end != num_bytes:
        raise _DamagedError("its size differs from what its header says")
