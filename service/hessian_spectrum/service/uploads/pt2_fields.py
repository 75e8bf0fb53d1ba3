"""Fields of the JSON of torch.export: names, types, shapes and arguments, each of which is checked.

Fields of other types than torch writes raise TypeError, KeyError or ValueError.
"""

import math
from collections.abc import Callable
from typing import Any

from hessian_spectrum.programs.program import MAX_NAME_LENGTH, MAX_TEXT_LENGTH, ProgramError, Value

_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
}

_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}


_RESERVED_NAMES = {"__metadata__"}
"""Names that safetensors files, in which arrays are stored, give to something else."""


def identifier(name: object) -> str:
    """Return the name of a value in a graph, which torch.export makes an identifier."""
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH or not name.isidentifier():
        raise ProgramError(f"it has a value whose name is not an identifier: {name!a:.64}")
    return name


def array_name(name: object) -> str:
    """Return the name of a parameter or constant; a colon is reserved for names that the stored file uses itself."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable() or ":" in name:
        raise ProgramError(
            f"it has a parameter or buffer whose name is not one to {MAX_NAME_LENGTH} printable characters without a "
            f"colon: {name!a:.64}"
        )
    if name in _RESERVED_NAMES:
        raise ProgramError(f"it has a parameter or buffer named {name}, a name that safetensors reserves: rename it")
    return name


def _name(prefix: str, name: object) -> dict[str, str]:
    return {"$": prefix + identifier(name)}


def _number(value: Any, _: str = "") -> Any:
    """A number, where JSON has a text for those that are not finite."""
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return {"float": {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[value]}
    if isinstance(value, float) and math.isfinite(value):  # the lowest number of a type, in masks
        return value
    return value if isinstance(value, bool) else _integer(value)


def _integer(value: Any, _: str = "") -> int:
    if type(value) is not int or not abs(value) < 2**63:
        raise TypeError
    return value


def _boolean(value: Any, _: str = "") -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _size(value: dict[str, Any], prefix: str) -> Any:
    ((kind, inner),) = value.items()
    return _name(prefix, inner) if kind == "as_name" else _number(inner)


def _optional(value: dict[str, Any], prefix: str) -> Any:
    return None if "as_none" in value else _name(prefix, value["as_tensor"]["name"])


def _list_of(convert: Callable[[Any, str], Any]) -> Callable[[Any, str], list[Any]]:
    def convert_all(values: Any, prefix: str) -> list[Any]:
        if not isinstance(values, list):
            raise TypeError
        return [convert(each, prefix) for each in values]

    return convert_all


def text(value: Any, _: str) -> str:
    """Return a short text in ASCII, such as the name of an operator or of a mode."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH or not value.isascii():
        raise TypeError
    return value


ARGUMENTS: dict[str, Callable[[Any, str], Any]] = {
    "as_none": lambda value_of, _prefix: None,
    "as_tensor": lambda value, prefix: _name(prefix, value["name"]),
    "as_tensors": _list_of(lambda value, prefix: _name(prefix, value["name"])),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _list_of(_optional),
    "as_nested_tensors": _list_of(_list_of(lambda value, prefix: _name(prefix, value["name"]))),
    "as_int": _integer,
    "as_ints": _list_of(_integer),
    "as_int_lists": _list_of(_list_of(_integer)),
    "as_float": _number,
    "as_floats": _list_of(_number),
    "as_float_lists": _list_of(_list_of(_number)),
    "as_bool": _boolean,
    "as_bools": _list_of(_boolean),
    "as_string": text,
    "as_strings": _list_of(text),
    "as_sym_int": _size,
    "as_sym_ints": _list_of(_size),
    "as_sym_float": _size,
    "as_sym_floats": _list_of(_size),
    "as_sym_bool": _size,
    "as_sym_bools": _list_of(_size),
    "as_scalar_type": lambda value, _: {"dtype": _DTYPES[value]},
    "as_memory_format": lambda value, _: {"memory_format": _MEMORY_FORMATS[value]},
    "as_layout": lambda value_of, _prefix: None,
    "as_device": lambda value_of, _prefix: {"device": None},
}
"""How each kind of argument is represented in a program."""


def length_of(size: dict[str, Any]) -> tuple[int, bool]:
    """Return the length on the example, and whether it varies; expressions are not read."""
    ((kind, value),) = size.items()
    is_dynamic = kind != "as_int"
    length = value["hint"]["as_int"] if is_dynamic else value
    if type(length) is not int:
        raise TypeError
    return length, is_dynamic


def value_of(meta: dict[str, Any]) -> Value:
    """Return type and shape of a tensor."""
    lengths = [length_of(size) for size in meta["sizes"]]
    dynamic = tuple(axis for axis, (_, is_dynamic) in enumerate(lengths) if is_dynamic)
    return Value(_dtype(meta["dtype"]), tuple(length for length, _ in lengths), dynamic)


def _dtype(number: Any) -> str:
    if number not in _DTYPES:
        raise ProgramError(f"it has values of a type that is not supported: {number!s:.16}")
    return _DTYPES[number]
