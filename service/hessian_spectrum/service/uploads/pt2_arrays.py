"""The tables of weights and constants in a file of torch.export, and the arrays that they describe."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.artifacts import ArrayType
from hessian_spectrum.programs.program import ProgramError, Value
from hessian_spectrum.service.uploads.pt2_fields import length_of, value_of
from hessian_spectrum.storage.artifact_files import NamedArray, widened

MAX_JSON_BYTES = 2**26
"""Largest size of the graph's JSON document in bytes."""

MAX_JSON_VALUES = 4_000_000
"""Largest number of values in a JSON document; each takes about 100 bytes of memory once it is parsed."""

JSON_VALUE_BYTES = 100

MAX_EXPANDED_NUMBERS = 2**24
"""Largest number of entries, all arrays together, beyond those that the file stores: arrays that were expanded repeat
numbers."""

MAX_ARRAYS = 20_000
"""Largest number of parameters and constants."""

_STORED: dict[str, tuple[ArrayType, str]] = {
    "uint8": ("U8", "u1"),
    "int8": ("I8", "i1"),
    "int16": ("I16", "<i2"),
    "int32": ("I32", "<i4"),
    "int64": ("I64", "<i8"),
    "float16": ("F16", "<f2"),
    "float32": ("F32", "<f4"),
    "float64": ("F64", "<f8"),
    "bfloat16": ("BF16", "<u2"),
    "bool": ("U8", "u1"),
}

_FLOATING = ("F16", "F32", "F64", "BF16")

_MEMBER = re.compile(r"\w[\w.-]{0,254}", re.ASCII)

Contents = Callable[[str], memoryview]
"""Returns the bytes of a member by its name within the archive, without the name of the archive."""


def parsed_json(content: memoryview, reserve: Callable[[int], object]) -> Any:
    """Parse a document whose size in memory is bounded before; of two entries with one key the last counts."""
    if len(content) > MAX_JSON_BYTES:
        raise ProgramError(f"its graph takes more than {MAX_JSON_BYTES // 2**20} MiB of JSON")
    text = bytes(content)
    num_values = 1 + sum(map(text.count, (b",", b"[", b"{")))
    if num_values > MAX_JSON_VALUES:
        raise ProgramError(f"its graph has more than {MAX_JSON_VALUES:,} values of JSON")
    reserve(2 * len(text) + JSON_VALUE_BYTES * num_values)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ProgramError("its graph is not JSON, or nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


class ArrayTable:
    """Arrays of the file, found through its tables of weights and constants."""

    def __init__(self, contents: Contents, reserve: Callable[[int], object]) -> None:
        self._contents = contents
        self._entries: dict[str, tuple[str, Any]] = {}
        self._num_spare = MAX_EXPANDED_NUMBERS
        self._read_paths: set[str] = set()
        for directory, table in (
            ("data/weights", "model_weights_config.json"),
            ("data/constants", "model_constants_config.json"),
        ):
            for name, entry in parsed_json(contents(f"{directory}/{table}"), reserve)["config"].items():
                if entry["use_pickle"] is not False:
                    raise ProgramError(f"{name:.64} is stored as a pickle, which is never opened")
                if not _MEMBER.fullmatch(entry["path_name"]) or name in self._entries:
                    raise ProgramError(f"its table of arrays has an invalid entry: {name!a:.64}")
                self._entries[name] = (f"{directory}/{entry['path_name']}", entry["tensor_meta"])
        self.arrays: dict[str, NamedArray] = {}

    def location(self, name: str) -> object:
        """Where the numbers of a parameter lie: equal for parameters that are tied."""
        path, meta = self._entry(name)
        return path, json.dumps([meta["sizes"], meta["strides"], meta["storage_offset"]])

    def is_trainable(self, name: str) -> bool:
        """Return whether a parameter required gradients when it was exported."""
        return bool(self._entry(name)[1]["requires_grad"])

    def add_parameter(self, name: str) -> Value:
        """Read a parameter; it becomes one of `arrays`."""
        value, array = self._read(name)
        if value.dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ProgramError(f"its parameter {name:.64} does not hold floating-point numbers")
        self._check_finite(name, array)
        self.arrays[name] = array
        return value

    def add_constant(self, name: str) -> tuple[Value, str]:
        """Read a buffer or a constant; it becomes one of `arrays`, under the name that is returned with its type."""
        value, array = self._read(name)
        if array.dtype in _FLOATING and any(np.isnan(numbers).any() for numbers in _numbers(array)):
            raise ProgramError(f"its constant {name:.64} holds NaN")
        key = f"constant:{name}"
        self.arrays[key] = array
        return value, key

    def _check_finite(self, name: str, array: NamedArray) -> None:
        if not all(np.isfinite(numbers).all() for numbers in _numbers(array)):
            raise ProgramError(f"its parameter {name:.64} holds NaN or infinity")

    def _entry(self, name: str) -> tuple[str, Any]:
        if name not in self._entries:
            raise ProgramError(f"its file holds no numbers for {name:.64}")
        return self._entries[name]

    def _read(self, name: str) -> tuple[Value, NamedArray]:
        path, meta = self._entry(name)
        value = value_of(meta)
        if value.dtype.startswith("complex"):
            raise ProgramError(f"{name:.64} is complex: store real and imaginary parts and use view_as_complex")
        if value.dtype not in _STORED:
            raise ProgramError(f"{name:.64} holds numbers of type {value.dtype}, which are not supported")
        stored, numpy_name = _STORED[value.dtype]
        dtype = np.dtype(numpy_name)
        content = self._contents(path)
        numbers: NDArray[Any] = np.frombuffer(content, dtype, count=len(content) // dtype.itemsize)
        strides = [length_of(stride)[0] for stride in meta["strides"]]
        offset = length_of(meta["storage_offset"])[0]
        view = _strided(name, numbers, value.shape, strides, offset)
        # what several arrays read, or an array repeats, is written once for each
        self._num_spare -= math.prod(value.shape) - (0 if path in self._read_paths else len(numbers))
        self._read_paths.add(path)
        if self._num_spare < 0:
            raise ProgramError(f"its expanded arrays repeat more than {MAX_EXPANDED_NUMBERS:,} numbers")
        return value, NamedArray(stored, view)


def _numbers(array: NamedArray) -> Iterator[NDArray[Any]]:
    return (widened(array.dtype, block) for block in array.blocks())


def _strided(name: str, numbers: NDArray[Any], shape: tuple[int, ...], strides: list[int], offset: int) -> NDArray[Any]:
    """Return the view of the numbers with this shape and these strides, counted in entries."""
    if len(strides) != len(shape) or offset < 0 or any(stride < 0 for stride in strides) or 0 in shape:
        raise ProgramError(f"the array of {name:.64} has an impossible layout")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if last >= len(numbers):
        raise ProgramError(f"the array of {name:.64} reaches beyond its file")
    itemsize = numbers.dtype.itemsize
    return as_strided(numbers[offset:], shape, [stride * itemsize for stride in strides], writeable=False)
