"""Files of `torch.export.save`: JSON and raw weights, read without torch or pickle and without evaluating anything.

A .pt2 file is a zip archive. This reader opens the members `models/model.json`, `byteorder`, and the tables and raw
bytes below `data/weights` and `data/constants`. It never opens `data/sample_inputs`, which is a pickle.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hessian_spectrum.programs.mutations import changed_inputs
from hessian_spectrum.programs.operators import INLINE, NO_GRAD, refusal
from hessian_spectrum.programs.program import (
    MAX_CALLS,
    MAX_NAME_LENGTH,
    MAX_NESTING,
    MAX_VALUES,
    Call,
    Parameter,
    Program,
    ProgramError,
    Region,
    Value,
)
from hessian_spectrum.service.uploads.pt2_arrays import MAX_ARRAYS, MAX_JSON_BYTES, ArrayTable, Contents, parsed_json
from hessian_spectrum.service.uploads.pt2_fields import ARGUMENTS, array_name, identifier, text, value_of
from hessian_spectrum.storage.artifact_files import NamedArray

SCHEMA_MAJOR = 8

MAX_REFUSALS = 40
"""Number of operators that a refusal lists."""

_TARGET = re.compile(r"torch\.ops\.((?:aten|higher_order)\.[A-Za-z_]\w*(?:\.[A-Za-z]\w*)?)", re.ASCII)
"""Names of operators in a file: no overload begins with an underscore, as `__class__` would."""

_DROPPED = re.compile(r"aten\.(_assert\w*|sym_constrain_range\w*)\.|torch\._check")
"""Calls that check types and ranges of the example inputs, which the loader checks itself."""


@dataclass(frozen=True)
class ReadProgram:
    """A program with the arrays of its parameters and constants, by name."""

    program: Program
    arrays: Mapping[str, NamedArray]


def read_program(contents: Contents, reserve: Callable[[int], object] = lambda num_bytes: None) -> ReadProgram:
    """Read a program of torch.export.

    Args:
        contents: Returns the bytes of a member, and raises ProgramError if there is none.
        reserve: Called with a number of bytes of memory before they are taken; it may raise an error.

    Returns:
        The program and its arrays.

    Raises:
        ProgramError: If the file is damaged, of another version, or its network is not supported.
    """
    if bytes(contents("byteorder")).strip() != b"little":
        raise ProgramError("its numbers are not little-endian")
    graph = contents("models/model.json")
    # parsing takes seconds, counting none; quotes inside of texts are escaped
    if len(graph) <= MAX_JSON_BYTES and bytes(graph).count(b'"target":') > MAX_CALLS:
        raise ProgramError(f"it has more than {MAX_CALLS:,} calls")
    document = parsed_json(graph, reserve)
    try:
        return _Reader(document, contents, reserve).read()
    except ProgramError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ProgramError(f"its graph is not as torch.export writes it ({type(error).__name__})") from None


@dataclass
class _Reader:
    """Reads one document; problems of operators are collected, so that the answer lists all of them."""

    document: dict[str, Any]
    contents: Contents
    reserve: Callable[[int], object]
    values: dict[str, Value] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    num_regions: int = 0
    num_calls: int = 0

    def read(self) -> ReadProgram:
        version = self.document["schema_version"]
        if version["major"] != SCHEMA_MAJOR:
            raise ProgramError(
                f"it has schema version {int(version['major'])}.{int(version['minor'])}; this server reads version "
                f"{SCHEMA_MAJOR}: export it with a version of PyTorch that writes that version"
            )
        module = self.document["graph_module"]
        graph, signature = module["graph"], module["signature"]
        body = tuple(self._calls(graph, "", depth=0))
        if self.refusals:
            listed = "; ".join(f"{what}: {why}" for what, why in list(self.refusals.items())[:MAX_REFUSALS])
            more = f", and {len(self.refusals) - MAX_REFUSALS} more" if len(self.refusals) > MAX_REFUSALS else ""
            raise ProgramError(f"it calls operators that cannot be used. {listed}{more}")
        table = ArrayTable(self.contents, self.reserve)
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
        self, specs: list[Any], table: ArrayTable
    ) -> tuple[list[Parameter], dict[str, str], dict[str, Value]]:
        if len(specs) > MAX_ARRAYS:
            raise ProgramError(f"it has more than {MAX_ARRAYS:,} parameters, constants and inputs")
        stored: dict[object, list[tuple[str, str]]] = {}
        constants: dict[str, str] = {}
        inputs: dict[str, Value] = {}
        for spec in specs:
            ((kind, fields),) = spec.items()
            if kind == "parameter":
                name = array_name(fields["parameter_name"])
                stored.setdefault(table.location(name), []).append((name, identifier(fields["arg"]["name"])))
            elif kind in ("buffer", "tensor_constant"):
                name = array_name(fields["buffer_name" if kind == "buffer" else "tensor_constant_name"])
                value, key = table.add_constant(name)
                self._define(constants, fields["arg"]["name"], key)
                self.values[fields["arg"]["name"]] = value
            elif kind == "user_input":
                if "as_tensor" in fields["arg"]:
                    name = fields["arg"]["as_tensor"]["name"]
                    self._define(inputs, name, self.values[name])
            elif kind != "constant_input":
                raise ProgramError(f"it has an input of a kind that is not supported: {kind:.32}")
        parameters = []
        for names in stored.values():
            (name, alias), *others = names
            value = table.add_parameter(name)
            is_trainable = table.is_trainable(name)
            parameters.append(Parameter(name, value, is_trainable, (alias, *(alias for _, alias in others))))
        return parameters, constants, inputs

    @staticmethod
    def _define(values: dict[str, Any], name: object, value: object) -> None:
        if identifier(name) in values:
            raise ProgramError(f"it has two inputs named {name!s:.64}")
        values[str(name)] = value

    def _calls(self, graph: dict[str, Any], prefix: str, depth: int) -> Iterator[Call]:
        if depth > MAX_NESTING:
            raise ProgramError("its regions are nested too deeply")
        self.num_calls += len(graph["nodes"])
        if self.num_calls > MAX_CALLS:
            raise ProgramError(f"it has more than {MAX_CALLS:,} calls")
        if len(self.values) + len(graph["tensor_values"]) > MAX_VALUES:
            raise ProgramError(f"it has more than {MAX_VALUES:,} values")
        for name, meta in graph["tensor_values"].items():
            self.values[prefix + identifier(name)] = value_of(meta)
        for node in graph["nodes"]:
            yield from self._call(node, prefix, depth)

    def _call(self, node: dict[str, Any], prefix: str, depth: int) -> Iterator[Call]:
        op = _operator(text(node["target"], ""))
        if _DROPPED.match(op):
            return
        module = _module_path(node.get("metadata", {}))
        if op in _REGIONS:
            yield from self._region(op, node, prefix, depth)
            return
        named = [(text(each["name"], ""), each["kind"], self._argument(each["arg"], prefix)) for each in node["inputs"]]
        if op.startswith("aten.") and not all(name.isidentifier() for name, _, _ in named):
            raise ProgramError(f"{op:.64} has arguments without names")
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
        is_without_gradients = op == _SET_GRADIENTS and arguments[0] == {"as_bool": False}
        yield Call(
            op=NO_GRAD if is_without_gradients else INLINE,
            args=({"graph": region.to_json()}, *(self._argument(each, prefix) for each in operands)),
            kwargs={},
            outputs=outputs,
            returns_list=returns_list or node.get("is_hop_single_tensor_return") is False,
        )

    def _argument(self, argument: dict[str, Any], prefix: str) -> Any:
        ((kind, value),) = argument.items()
        return ARGUMENTS[kind](value, prefix)


_SET_GRADIENTS = "higher_order.wrap_with_set_grad_enabled"
_REGIONS = (_SET_GRADIENTS, "higher_order.wrap_with_autocast")


def _operator(target: str) -> str:
    """Return the operator's name in a program, or a name that no operator has."""
    if found := _TARGET.fullmatch(target):
        return found[1]
    module, _, name = target.rpartition(".")
    if module == "_operator":
        return f"operator.{name}"
    if module in ("math", "torch") and name in _FUNCTIONS:
        return name
    # never the name of another operator, such as that of a region
    return target if target.startswith("torch._check") else f"function {target}"


_FUNCTIONS = ("ceil", "floor", "trunc", "sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite")


def _outputs(outputs: list[Any], prefix: str) -> tuple[tuple[str | None, ...], bool]:
    names: list[str | None] = []
    for each in outputs:
        ((kind, value),) = each.items()
        if kind == "as_tensors":
            if len(outputs) != 1:
                raise ProgramError("an operator returns several lists")
            return tuple(prefix + identifier(tensor["name"]) for tensor in value), True
        if kind == "as_none":
            names.append(None)
        elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
            names.append(prefix + identifier(value["as_name"]))
        elif kind == "as_optional_tensor":
            names.append(None if "as_none" in value else prefix + identifier(value["as_tensor"]["name"]))
        else:
            names.append(prefix + identifier(value["name"]) if kind == "as_tensor" else None)
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
                names.append(identifier(fields["arg"]["as_tensor"]["name"]))
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
    return identifier(value["name"] if kind == "as_tensor" else value["as_name"])


def _module_path(metadata: dict[str, str]) -> str:
    """Return the path of the innermost module in torch's stack of modules, `key,path,class` separated by `;`."""
    last = str(metadata.get("nn_module_stack", "")).rpartition(";")[2]
    parts = last.split(",")
    is_path = len(parts) >= 3 and parts[1].isprintable() and not parts[1].startswith("_empty")
    return parts[1][:MAX_NAME_LENGTH] if is_path else ""
