"""Arrays in ONNX files, checked against their headers before memory is allocated for them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from hessian_spectrum.api_schemas.artifacts import ArrayType
from hessian_spectrum.programs.program import FLOATING_DTYPES, MAX_DIMENSIONS, ProgramError
from hessian_spectrum.storage.artifact_files import NamedArray, widened

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.BFLOAT16: "bfloat16",
}
"""Types of arrays that are supported, by their number in the file."""

_STORED: dict[str, tuple[ArrayType, str]] = {
    "uint8": ("U8", "u1"),
    "int8": ("I8", "i1"),
    "int16": ("I16", "<i2"),
    "int32": ("I32", "<i4"),
    "int64": ("I64", "<i8"),
    "float16": ("F16", "<f2"),
    "bfloat16": ("BF16", "<u2"),
    "float32": ("F32", "<f4"),
    "float64": ("F64", "<f8"),
    "bool": ("U8", "u1"),
}

_FIELD_OF = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
"""Fields with numbers of types that do not share `int32_data`."""


def dtype_of(number: int) -> str:
    """Return the name of a type.

    Raises:
        ProgramError: If it is not supported.
    """
    if number not in DTYPES:
        known = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else number
        raise ProgramError(f"values of type {known} are not supported")
    return DTYPES[number]


def read_tensor(tensor: TensorProto, name: str) -> tuple[str, NDArray[Any]]:
    """Read an array.

    Args:
        tensor: The message.
        name: What messages call it.

    Returns:
        The name of its type, and its numbers; bfloat16 numbers are represented by their bits.

    Raises:
        ProgramError: If it is stored in another file, has an unsupported type, or its header does not fit its numbers.
    """
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ProgramError(f"the numbers of {name:.64} are stored in another file: save the model as a single file")
    if tensor.HasField("segment"):
        raise ProgramError(f"the array {name:.64} is stored in segments, which is not supported")
    dtype = dtype_of(tensor.data_type)
    shape = tuple(tensor.dims)
    if len(shape) > MAX_DIMENSIONS or any(length < 0 for length in shape):
        raise ProgramError(f"the array {name:.64} has an impossible shape")
    stored = np.dtype(_STORED[dtype][1])
    count = math.prod(shape)
    if tensor.HasField("raw_data"):
        num_stored, remainder = divmod(len(tensor.raw_data), stored.itemsize)
        _check_count(name, count, num_stored if not remainder else -1)
        return dtype, np.frombuffer(tensor.raw_data, stored).reshape(shape)
    numbers = getattr(tensor, _FIELD_OF.get(dtype, "int32_data"))
    _check_count(name, count, len(numbers))
    if dtype == "float16":  # its bits, as whole numbers
        return dtype, _whole(numbers, np.dtype("<u2"), name).view("<f2").reshape(shape)
    if stored.kind == "f":
        return dtype, np.array(numbers, stored).reshape(shape)
    return dtype, _whole(numbers, stored, name).reshape(shape)


def _check_count(name: str, expected: int, stored: int) -> None:
    if expected != stored:
        what = f"{stored:,} numbers" if stored >= 0 else "a number that is cut off"
        raise ProgramError(f"the array {name:.64} needs {expected:,} numbers for its shape, but the file has {what}")


def _whole(numbers: Any, stored: np.dtype[Any], name: str) -> NDArray[Any]:
    array = np.array(numbers, np.int64)
    limits = np.iinfo(stored)
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ProgramError(f"the array {name:.64} contains numbers that its type cannot represent")
    return array.astype(stored)


def named_array(dtype: str, numbers: NDArray[Any]) -> NamedArray:
    """Return numbers of a type in the form in which they are stored."""
    stored, numpy_name = _STORED[dtype]
    return NamedArray(stored, numbers if numbers.dtype == numpy_name else numbers.astype(numpy_name))


def as_numbers(dtype: str, numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers that numpy can compute with, where bfloat16 numbers are represented by their bits."""
    if dtype == "bfloat16":
        return widened("BF16", numbers)
    return numbers.astype(bool) if dtype == "bool" else numbers


def is_floating(dtype: str) -> bool:
    """Return whether values of this type are real numbers."""
    return dtype in FLOATING_DTYPES
