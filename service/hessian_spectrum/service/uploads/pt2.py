"""Programs of `torch.export.save`: their JSON and raw weights, without torch, pickle or a parser that evaluates.

A .pt2 file is a zip archive. This reader opens the members `models/model.json`, `byteorder`, and the tables and raw
bytes below `data/weights` and `data/constants`. It never opens `data/sample_inputs`, which is a pickle.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.artifacts import ArrayType
from hessian_spectrum.programs.mutations import changed_inputs
from hessian_spectrum.programs.operators import INLINE, NO_GRAD, refusal
from hessian_spectrum.programs.program import MAX_NESTING, Call, Parameter, Program, ProgramError, Region, Value
from hessian_spectrum.storage.artifact_files import NamedArray

SCHEMA_MAJOR = 8

MAX_JSON_BYTES = 2**26
"""Largest size of the graph's JSON document in bytes."""

MAX_EXPANDED_NUMBERS = 2**24
"""Largest number of entries of a constant that repeats fewer stored numbers, as one that was expanded does."""

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

_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}

_DROPPED = re.compile(r"aten\.(_assert\w*|sym_constrain_range\w*)\.|torch\._check")
"""Checks of what the example had: types and ranges, which the loader checks itself."""


Contents = Callable[[str], memoryview]
"""Returns the bytes of a member by its name within the archive, without the name of the archive."""


@dataclass(frozen=True)
class ReadProgram:
    """A program with the arrays of its parameters and constants, by name."""

    program: Program
    arrays: Mapping[str, NamedArray]


def read_program(contents: Contents) -> ReadProgram:
    """Read a program of torch.export.

    Args:
        contents: Returns the bytes of a member, and raises ProgramError if there is none.

    Returns:
        The program and its arrays.

    Raises:
        ProgramError: If the file is damaged, of another version, or its network is not supported.
    """
    if bytes(contents("byteorder")).strip() != b"little":
        raise ProgramError("its numbers are not little-endian")
    document = _json(contents("models/model.json"))
    try:
        return _Reader(document, contents).read()
    except ProgramError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ProgramError(f"its graph is not as torch.export writes it ({type(error).__name__})") from None


def _json(content: memoryview) -> Any:
    if len(content) > MAX_JSON_BYTES:
        raise ProgramError(f"its graph takes more than {MAX_JSON_BYTES // 2**20} MiB of JSON")
    try:
        return json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise ProgramError("its graph is not JSON") from None


@dataclass
class _Reader:
    """Reads one document; problems of operators are collected, so that the answer lists all of them."""

    document: dict[str, Any]
    contents: Contents
    values: dict[str, Value] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    num_regions: int = 0

    def read(self) -> ReadProgram:
        version = self.document["schema_version"]
        if version["major"] != SCHEMA_MAJOR:
            raise ProgramError(
                f"it has schema version {int(version['major'])}.{int(version['minor'])}; this server reads version "
                f"{SCHEMA_MAJOR}: export it with a PyTorch that writes that version"
            )
        module = self.document["graph_module"]
        graph, signature = module["graph"], module["signature"]
        body = tuple(self._calls(graph, "", depth=0))
        if self.refusals:
            listed = "; ".join(f"{what}: {why}" for what, why in self.refusals.items())
            raise ProgramError(f"it calls operators that cannot be used. {listed}")
        table = _ArrayTable(self.contents)
        parameters, constants, inputs = self._signature(signature["input_specs"], table)
        program = Program(
            source="torch.export",
            parameters=tuple(parameters),
            constants=constants,
            inputs=inputs,
            output=_output(signature["output_specs"]),
            body=body,
            values={name: value for name, value in self.values.items() if name not in inputs},
        )
        program.check()
        changed_inputs(program)
        return ReadProgram(program, table.arrays)

    def _signature(
        self, specs: list[Any], table: "_ArrayTable"
    ) -> tuple[list[Parameter], dict[str, str], dict[str, Value]]:
        stored: dict[object, list[tuple[str, str]]] = {}
        constants: dict[str, str] = {}
        inputs: dict[str, Value] = {}
        for spec in specs:
            ((kind, fields),) = spec.items()
            if kind == "parameter":
                name = str(fields["parameter_name"])
                stored.setdefault(table.location(name), []).append((name, str(fields["arg"]["name"])))
            elif kind in ("buffer", "tensor_constant"):
                name = str(fields["buffer_name" if kind == "buffer" else "tensor_constant_name"])
                constants[str(fields["arg"]["name"])] = table.add_constant(name)
            elif kind == "user_input":
                if "as_tensor" in fields["arg"]:
                    name = str(fields["arg"]["as_tensor"]["name"])
                    inputs[name] = self.values[name]
            elif kind != "constant_input":
                raise ProgramError(f"it has an input of a kind that is not supported: {kind:.32}")
        parameters = []
        for names in stored.values():
            (name, alias), *others = names
            value = table.add_parameter(name)
            is_trainable = table.is_trainable(name)
            parameters.append(Parameter(name, value, is_trainable, (alias, *(alias for _, alias in others))))
        return parameters, constants, inputs

    def _calls(self, graph: dict[str, Any], prefix: str, depth: int) -> Iterator[Call]:
        if depth > MAX_NESTING:
            raise ProgramError("its regions are nested too deeply")
        for name, meta in graph["tensor_values"].items():
            self.values[prefix + name] = _value(meta)
        for node in graph["nodes"]:
            yield from self._call(node, prefix, depth)

    def _call(self, node: dict[str, Any], prefix: str, depth: int) -> Iterator[Call]:
        target = str(node["target"])
        op = _operator(target)
        if _DROPPED.match(op):
            return
        module = _module_path(node.get("metadata", {}))
        if op.startswith("higher_order.wrap_with_"):
            yield from self._region(op, node, prefix, depth)
            return
        named = [(str(each["name"]), each["kind"], self._argument(each["arg"], prefix)) for each in node["inputs"]]
        reason = refusal(op, {name: value for name, _, value in named})
        if reason is not None:
            what = f"{op:.64} in {module:.128}" if module else f"{op:.64}"
            self.refusals.setdefault(what, reason)
            return
        outputs, returns_list = _outputs(node["outputs"], prefix)
        yield Call(
            op=op,
            args=tuple(value for _, kind, value in named if kind == 1),
            kwargs={name: value for name, kind, value in named if kind != 1},
            outputs=outputs,
            returns_list=returns_list,
            module=module,
        )

    def _region(self, op: str, node: dict[str, Any], prefix: str, depth: int) -> Iterator[Call]:
        """A region without gradients becomes a call; other regions change nothing and are taken as they are."""
        arguments = [each["arg"] for each in node["inputs"]]
        ((graph, *operands),) = [
            arguments[index:] for index, each in enumerate(arguments) if isinstance(each, dict) and "as_graph" in each
        ]
        self.num_regions += 1
        inner_prefix = f"region{self.num_regions}/"
        inner = graph["as_graph"]["graph"]
        calls = tuple(self._calls(inner, inner_prefix, depth + 1))
        region = Region(
            inputs=tuple(inner_prefix + _tensor_name(each) for each in inner["inputs"]),
            calls=calls,
            outputs=tuple(inner_prefix + _tensor_name(each) for each in inner["outputs"]),
        )
        outputs, returns_list = _outputs(node["outputs"], prefix)
        is_without_gradients = op.endswith("set_grad_enabled") and arguments[0] == {"as_bool": False}
        yield Call(
            op=NO_GRAD if is_without_gradients else INLINE,
            args=({"graph": region.to_json()}, *(self._argument(each, prefix) for each in operands)),
            kwargs={},
            outputs=outputs,
            returns_list=returns_list or bool(node.get("is_hop_single_tensor_return") is False),
        )

    def _argument(self, argument: dict[str, Any], prefix: str) -> Any:
        ((kind, value),) = argument.items()
        return _ARGUMENTS[kind](value, prefix)


def _name(prefix: str, name: object) -> dict[str, str]:
    return {"$": f"{prefix}{name}"}


def _number(value: Any, _: str = "") -> Any:
    """A number, where JSON has a text for those that are not finite."""
    if isinstance(value, str):
        number = float(value)
        return {"float": "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"}
    if not isinstance(value, (int, float)):
        raise TypeError
    return value


def _size(value: dict[str, Any], prefix: str) -> Any:
    ((kind, inner),) = value.items()
    return _name(prefix, inner) if kind == "as_name" else _number(inner)


def _optional(value: dict[str, Any], prefix: str) -> Any:
    return None if "as_none" in value else _name(prefix, value["as_tensor"]["name"])


def _list_of(convert: Callable[[Any, str], Any]) -> Callable[[Any, str], list[Any]]:
    return lambda values, prefix: [convert(each, prefix) for each in values]


def _text(value: Any, _: str) -> str:
    if not isinstance(value, str) or len(value) > 1024:
        raise TypeError
    return value


_ARGUMENTS: dict[str, Callable[[Any, str], Any]] = {
    "as_none": lambda _value, _prefix: None,
    "as_tensor": lambda value, prefix: _name(prefix, value["name"]),
    "as_tensors": _list_of(lambda value, prefix: _name(prefix, value["name"])),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _list_of(_optional),
    "as_nested_tensors": _list_of(_list_of(lambda value, prefix: _name(prefix, value["name"]))),
    "as_int": _number,
    "as_ints": _list_of(_number),
    "as_int_lists": _list_of(_list_of(_number)),
    "as_float": _number,
    "as_floats": _list_of(_number),
    "as_float_lists": _list_of(_list_of(_number)),
    "as_bool": _number,
    "as_bools": _list_of(_number),
    "as_string": _text,
    "as_strings": _list_of(_text),
    "as_sym_int": _size,
    "as_sym_ints": _list_of(_size),
    "as_sym_float": _size,
    "as_sym_floats": _list_of(_size),
    "as_sym_bool": _size,
    "as_sym_bools": _list_of(_size),
    "as_scalar_type": lambda value, _: {"dtype": _DTYPES[value]},
    "as_memory_format": lambda value, _: {"memory_format": _MEMORY_FORMATS[value]},
    "as_layout": lambda _value, _prefix: None,
    "as_device": lambda _value, _prefix: {"device": None},
}
"""How each kind of argument is represented in a program."""


def _operator(target: str) -> str:
    """Return the operator's name in a program, or a name that is no operator."""
    if target.startswith("torch.ops."):
        return target.removeprefix("torch.ops.")
    module, _, name = target.rpartition(".")
    if module == "_operator":
        return f"operator.{name}"
    if module in ("math", "torch") and name in ("ceil", "floor", "trunc", "sym_max", "sym_min", "sym_float", "sym_int"):
        return name
    if target in ("torch.sym_not", "torch.sym_ite"):
        return name
    return target


def _outputs(outputs: list[Any], prefix: str) -> tuple[tuple[str | None, ...], bool]:
    names: list[str | None] = []
    for each in outputs:
        ((kind, value),) = each.items()
        if kind == "as_tensors":
            if len(outputs) != 1:
                raise ProgramError("an operator returns several lists")
            return tuple(prefix + str(tensor["name"]) for tensor in value), True
        if kind == "as_none":
            names.append(None)
        elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
            names.append(prefix + str(value["as_name"]))
        elif kind == "as_optional_tensor":
            names.append(None if "as_none" in value else prefix + str(value["as_tensor"]["name"]))
        else:
            names.append(prefix + str(value["name"]) if kind == "as_tensor" else None)
    return tuple(names), False


def _output(specs: list[Any]) -> str:
    """Return the name of the one output.

    Raises:
        ProgramError: If there are none or several, or the program also changes its buffers or inputs.
    """
    names = []
    for spec in specs:
        ((kind, fields),) = spec.items()
        if kind == "user_output":
            if "as_tensor" in fields["arg"]:
                names.append(str(fields["arg"]["as_tensor"]["name"]))
        elif kind.endswith("mutation"):
            name = fields.get("buffer_name", fields.get("user_input_name", ""))
            raise ProgramError(
                f"its forward pass changes {name!s:.64}: call eval() on the module before it is exported, or keep the "
                "forward pass from changing it"
            )
        else:
            raise ProgramError(f"it has an output of a kind that is not supported: {kind:.32}")
    if len(names) != 1:
        raise ProgramError(
            f"it returns {len(names)} arrays; it must return one: export a module that returns, for example, the logits"
        )
    return names[0]


def _tensor_name(argument: dict[str, Any]) -> str:
    ((kind, value),) = argument.items()
    return str(value["name"]) if kind == "as_tensor" else str(value["as_name"])


def _length(size: dict[str, Any]) -> tuple[int, bool]:
    ((kind, value),) = size.items()
    if kind == "as_int":
        return int(value), False
    hint = value.get("hint") or {}
    return int(hint["as_int"]), True


def _value(meta: dict[str, Any]) -> Value:
    lengths = [_length(size) for size in meta["sizes"]]
    dynamic = tuple(axis for axis, (_, is_dynamic) in enumerate(lengths) if is_dynamic)
    return Value(_dtype(meta["dtype"]), tuple(length for length, _ in lengths), dynamic)


def _dtype(number: Any) -> str:
    if number not in _DTYPES:
        raise ProgramError(f"it has values of a type that is not supported: {number!s:.16}")
    return _DTYPES[number]


def _module_path(metadata: dict[str, str]) -> str:
    """Return the path of the innermost module in torch's stack of modules, `key,path,class` separated by `;`."""
    last = str(metadata.get("nn_module_stack", "")).rpartition(";")[2]
    parts = last.split(",")
    return parts[1][:256] if len(parts) >= 3 and not parts[1].startswith("_empty") else ""


class _ArrayTable:
    """Arrays of the file, found through its tables of weights and constants."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._entries: dict[str, tuple[str, Any]] = {}
        for directory, table in (
            ("data/weights", "model_weights_config.json"),
            ("data/constants", "model_constants_config.json"),
        ):
            for name, entry in _json(contents(f"{directory}/{table}"))["config"].items():
                if entry["use_pickle"]:
                    raise ProgramError(f"{name:.64} is stored as a pickle, which is never opened")
                self._entries[str(name)] = (f"{directory}/{entry['path_name']}", entry["tensor_meta"])
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
        if value.dtype.startswith("complex"):
            raise ProgramError(
                f"its parameter {name:.64} is complex: store real and imaginary parts and use view_as_complex"
            )
        if value.dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ProgramError(f"its parameter {name:.64} holds no floating-point numbers")
        self._check_finite(name, array)
        self.arrays[name] = array
        return value

    def add_constant(self, name: str) -> str:
        """Read a buffer or a constant; it becomes one of `arrays`, under the name that is returned."""
        _, array = self._read(name)
        key = f"constant:{name}"
        self.arrays[key] = array
        return key

    def _check_finite(self, name: str, array: NamedArray) -> None:
        for block in array.blocks():
            numbers = (block.astype(np.uint32) << 16).view(np.float32) if array.dtype == "BF16" else block
            if not np.isfinite(numbers).all():
                raise ProgramError(f"its parameter {name:.64} holds NaN or infinity")

    def _entry(self, name: str) -> tuple[str, Any]:
        if name not in self._entries:
            raise ProgramError(f"its file holds no numbers for {name:.64}")
        return self._entries[name]

    def _read(self, name: str) -> tuple[Value, NamedArray]:
        path, meta = self._entry(name)
        value = _value(meta)
        if value.dtype not in _STORED:
            raise ProgramError(f"{name:.64} holds numbers of type {value.dtype}, which are not supported")
        stored, numpy_name = _STORED[value.dtype]
        dtype = np.dtype(numpy_name)
        content = self._contents(path)
        numbers: NDArray[Any] = np.frombuffer(content, dtype, count=len(content) // dtype.itemsize)
        strides = [_length(stride)[0] for stride in meta["strides"]]
        offset = _length(meta["storage_offset"])[0]
        view = _strided(name, numbers, value.shape, strides, offset)
        return value, NamedArray(stored, view)


def _strided(name: str, numbers: NDArray[Any], shape: tuple[int, ...], strides: list[int], offset: int) -> NDArray[Any]:
    """Return the view of the numbers with this shape and these strides, counted in entries."""
    if len(strides) != len(shape) or offset < 0 or any(stride < 0 for stride in strides) or 0 in shape:
        raise ProgramError(f"the array of {name:.64} has an impossible layout")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if last >= len(numbers) or math.prod(shape) > max(len(numbers), MAX_EXPANDED_NUMBERS):
        raise ProgramError(f"the array of {name:.64} reaches beyond its file")
    itemsize = numbers.dtype.itemsize
    return as_strided(numbers[offset:], shape, [stride * itemsize for stride in strides], writeable=False)
