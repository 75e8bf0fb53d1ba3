"""One array in numpy's .npy format, read from memory without a copy where it can be."""

import io
import math
import tokenize
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from hessian_spectrum.service.uploads.memory_budget import Reservation

MAX_HEADER_BYTES = 1024
"""Headers of the arrays that are accepted take 128; a longer one is given to no parser."""

MAX_TEXT_LENGTH = 64

MAX_DIMENSIONS = 8
NO_SHAPE = f"must have one to {MAX_DIMENSIONS} dimensions and must not be empty"

_FINITE_BLOCK = 2**17  # numbers: a block and its mask stay in the cache

MAGIC = npy_format.MAGIC_PREFIX

Value = NDArray[np.float64] | float | int | str


class UnreadableArrayError(ValueError):
    """The bytes are no array, or one that no request takes."""


def read_npy(content: memoryview, reservation: Reservation) -> Value:
    """The array as aligned float64 in native byte order, one or two dimensions; a 0-d one as a number or a text.

    A view of `content` if it already holds that, in the order of its memory, which may be Fortran's.

    Raises:
        UnreadableArrayError: The array cannot be read.
        ProblemError: 503 if a copy is needed and there is no memory for it.
    """
    shape, fortran_order, dtype, start = read_header(content)
    _check_type(shape, dtype)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise UnreadableArrayError("its size is not what its header says")
    if not shape:
        return _scalar(content[start:], dtype)
    array = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
    numbers = _native(array, reservation)
    if not _is_finite(numbers):
        raise UnreadableArrayError("must be finite: no NaN, no infinity")
    return numbers


def read_numbers(content: memoryview) -> NDArray[np.generic]:
    """The array as it lies in `content`: floats of 2, 4 or 8 bytes or integers, of any shape and order.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    shape, fortran_order, dtype, start = read_header(content)
    if not (dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8)):
        raise UnreadableArrayError("must hold float16, float32, float64 or integers")
    if not is_shape(shape):
        raise UnreadableArrayError(NO_SHAPE)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise UnreadableArrayError("its size is not what its header says")
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")


def is_shape(shape: Sequence[Any]) -> bool:
    """Whether an array of numbers may have it."""
    return 1 <= len(shape) <= MAX_DIMENSIONS and all(type(length) is int and length >= 1 for length in shape)


def read_header(content: bytes | memoryview) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, whether the order is Fortran's, type of the numbers, and where they begin.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    stream = io.BytesIO(content[:MAX_HEADER_BYTES])
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            header = npy_format.read_array_header_1_0(stream, MAX_HEADER_BYTES)
        elif version == (2, 0):
            header = npy_format.read_array_header_2_0(stream, MAX_HEADER_BYTES)
        else:
            raise UnreadableArrayError("is of a version of .npy that holds no plain numbers")
    except UnreadableArrayError:
        raise
    except (ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, tokenize.TokenError, RecursionError):
        raise UnreadableArrayError("is no array in .npy format") from None
    return *header, stream.tell()


def _check_type(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if len(shape) > 2 or any(type(length) is not int or length < 1 for length in shape):
        raise UnreadableArrayError("must have at most two dimensions and must not be empty")
    is_number = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    is_text = dtype.kind == "U" and not shape and dtype.itemsize <= 4 * MAX_TEXT_LENGTH
    if not (is_number or is_text):
        raise UnreadableArrayError(
            f"must hold float32, float64 or integers (or be a single text of at most {MAX_TEXT_LENGTH} characters)"
        )


def _scalar(content: memoryview, dtype: np.dtype[np.generic]) -> float | int | str:
    if not dtype.itemsize:
        return ""
    try:
        value = np.frombuffer(content, dtype=dtype)[0].item()
    except ValueError:
        raise UnreadableArrayError("is no text") from None
    if isinstance(value, str) and not value.isascii():
        raise UnreadableArrayError("must be plain ASCII")
    assert isinstance(value, (float, int, str))
    return value


def _native(array: NDArray[np.generic], reservation: Reservation) -> NDArray[np.float64]:
    if array.dtype == np.float64 and array.dtype.isnative and array.flags.aligned:
        return array.view(np.float64)
    reservation.grow(8 * array.size)
    return array.astype(np.float64)


def _is_finite(array: NDArray[np.float64]) -> bool:
    flat = array.ravel(order="K")
    blocks = (flat[start : start + _FINITE_BLOCK] for start in range(0, flat.size, _FINITE_BLOCK))
    return all(bool(np.isfinite(block).all()) for block in blocks)
