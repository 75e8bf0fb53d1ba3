"""Networks in ONNX files, read into programs: no code, no other files, and sizes are checked before memory is taken.

The nodes are lowered one by one onto PyTorch's operators. Arithmetic on shapes is done while the file is read, exactly
for every number of samples. Real numbers have the precision of the job, whatever their type in the file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from hessian_spectrum.programs.program import MAX_NAME_LENGTH, Call, Parameter, Program, ProgramError
from hessian_spectrum.service.uploads.onnx.folding import folded
from hessian_spectrum.service.uploads.onnx.lengths import Dimension, Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering, value_of
from hessian_spectrum.service.uploads.onnx.node import (
    MAX_ENTRIES,
    MAX_ENTRIES_OF_MANY,
    Node,
    Operand,
    UnsupportedError,
    constant,
    read_attributes,
)
from hessian_spectrum.service.uploads.onnx.operators import LOWERED, REASONS, SEQUENCE_OPERATORS
from hessian_spectrum.service.uploads.onnx.parameters import parameter_names
from hessian_spectrum.service.uploads.onnx.tensors import as_numbers, dtype_of, is_floating, named_array, read_tensor
from hessian_spectrum.service.uploads.onnx.wire import check_bounds
from hessian_spectrum.service.uploads.pt2 import ReadProgram

OLDEST, NEWEST = 17, 28
"""Versions of the set of operators that are read."""

MAX_NODES = 20_000
MAX_INITIALIZERS = 20_000
MAX_OPERANDS = 4096
"""Largest number of operands, or of results, of one node."""

MAX_KNOWN = 2**21
"""Number of values that are computed while the file is read before only short arrays still are."""

MAX_LISTED = 40
"""Largest number of nodes that one answer lists."""

_OWN_DOMAINS = ("", "ai.onnx")
_RESERVED = ("constant:", "program:", "__")


def read_onnx(content: memoryview, reserve: Callable[[int], None]) -> ReadProgram:
    """Read a network from an ONNX file.

    Args:
        content: The bytes of the file.
        reserve: Called with a number of bytes of memory before they are taken; it may raise.

    Returns:
        The program, and the arrays of its parameters and constants.

    Raises:
        ProgramError: If the file is damaged, or its network is not supported; the message lists all nodes that are not.
    """
    reserve(check_bounds(content))
    model = ModelProto()
    try:
        model.ParseFromString(bytes(content))
    except DecodeError:
        raise ProgramError("the file is damaged: it is not a protobuf message, or ends too early") from None
    try:
        return _Reader(model.graph, _version(model)).read()
    except ProgramError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise ProgramError(f"its graph cannot be read ({type(error).__name__})") from None


def _version(model: ModelProto) -> int:
    if not model.HasField("graph"):
        raise ProgramError("it holds no graph: it is not an ONNX model")
    if model.functions:
        names = ", ".join(f"{each.name:.64}" for each in model.functions[:8])
        raise ProgramError(
            f"it has model-local functions ({names}): inline them with onnx.inliner.inline_local_functions, or export "
            "without them"
        )
    if model.training_info:
        raise ProgramError("it holds information for training, which is not supported")
    versions = [each.version for each in model.opset_import if each.domain in _OWN_DOMAINS]
    if len(versions) != 1 or not OLDEST <= versions[0] <= NEWEST:
        listed = ", ".join(map(str, versions[:4])) or "none"
        raise ProgramError(f"it uses opset version {listed}; this server reads versions {OLDEST} to {NEWEST}")
    return int(versions[0])


@dataclass
class _Reader:
    """Reads one graph; nodes that cannot be lowered are collected, so that the answer lists all of them."""

    graph: GraphProto
    version: int
    operands: dict[str, Operand | None] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    num_known: int = 0

    def read(self) -> ReadProgram:
        self._check_sizes()
        _check_names(self.graph)
        initializers = self._initializers()
        inputs = self._inputs(initializers)
        program = Lowering(f"input:{next(iter(inputs))}")
        for name, operand in inputs.items():
            self._define(name, operand)
        self._add_initializers(initializers, inputs, program)
        for node in self.graph.node:
            self._lower(node, program)
        self._refuse()
        output, body = self._output(program, inputs)
        used = {name for call in body for name in call.names_read()}
        parameters = tuple(each for each in self.parameters.values() if used.intersection(each.aliases))
        kept = {each.name for each in parameters} | set(program.constants.values())
        read = Program(
            source="onnx",
            parameters=parameters,
            constants=program.constants,
            inputs={str(operand.name): value_of(operand.shape, operand.dtype) for operand in inputs.values()},
            output=output,
            body=body,
            values=program.values,
        )
        read.check()
        return ReadProgram(read, {name: array for name, array in program.arrays.items() if name in kept})

    def _check_sizes(self) -> None:
        if self.graph.sparse_initializer:
            raise ProgramError("it has sparse arrays, which are not supported")
        for what, count, most in (
            ("nodes", len(self.graph.node), MAX_NODES),
            ("initialisers", len(self.graph.initializer), MAX_INITIALIZERS),
        ):
            if count > most:
                raise ProgramError(f"it has {count:,} {what}; at most {most:,} are supported")

    def _initializers(self) -> dict[str, TensorProto]:
        found: dict[str, TensorProto] = {}
        for tensor in self.graph.initializer:
            name = tensor.name
            if not name or len(name) > MAX_NAME_LENGTH or name.startswith(_RESERVED) or not name.isprintable():
                raise ProgramError(f"an initialiser has a name that cannot be used: {name!r:.64}")
            if name in found:
                raise ProgramError(f"two initialisers have the name {name:.64}")
            found[name] = tensor
        return found

    def _inputs(self, initializers: dict[str, TensorProto]) -> dict[str, Operand]:
        inputs = {}
        for value in self.graph.input:
            if value.name not in initializers:
                if not value.name or len(value.name) > MAX_NAME_LENGTH or value.name in inputs:
                    raise ProgramError("an input has no name, or the same name as another one")
                # names of the program's own are a letter and a number
                inputs[value.name] = Operand(*_type_and_shape(value), name=f"input:{value.name}")
        if not inputs:
            raise ProgramError("it has no inputs")
        return inputs

    def _add_initializers(
        self, initializers: dict[str, TensorProto], inputs: dict[str, Operand], program: Lowering
    ) -> None:
        """Make parameters of real numbers along at least one axis, and constants of other initialisers."""
        arrays = {name: read_tensor(tensor, name) for name, tensor in initializers.items()}
        finite = {
            name
            for name, (dtype, numbers) in arrays.items()
            if is_floating(dtype) and numbers.ndim and numbers.size and np.isfinite(as_numbers(dtype, numbers)).all()
        }
        trainable = parameter_names(self.graph, inputs, [name for name in arrays if name in finite])
        for name, (dtype, numbers) in arrays.items():
            if is_floating(dtype) and np.isnan(as_numbers(dtype, numbers)).any():
                raise ProgramError(f"its initialiser {name:.64} holds NaN")
            if name not in finite:
                self._define(name, self._constant(dtype, numbers))
                continue
            alias = f"p{len(self.parameters)}"
            value = value_of(numbers.shape, dtype)
            self.parameters[name] = Parameter(name, value, name in trainable, (alias,))
            program.values[alias] = value
            program.arrays[name] = named_array(dtype, numbers)
            entries = None if name in trainable else self._constant(dtype, numbers).entries
            self._define(name, Operand(dtype, numbers.shape, alias, entries, is_foldable=False))

    def _constant(self, dtype: str, numbers: NDArray[Any]) -> Operand:
        operand = constant(dtype, numbers, largest=self._largest_known())
        self.num_known += 0 if operand.entries is None else operand.entries.size
        return operand

    def _largest_known(self) -> int:
        return MAX_ENTRIES if self.num_known < MAX_KNOWN else MAX_ENTRIES_OF_MANY

    def _lower(self, node: NodeProto, program: Lowering) -> None:
        label = node.name or next((name for name in node.output if name), "")
        try:
            results = self._results(node, label, program)
        except (UnsupportedError, ProgramError) as error:
            self.refusals.setdefault(f"{node.op_type:.64} in {label:.128}", str(error))
            results = []
        for index, name in enumerate(node.output):
            if name:
                self._define(name, results[index] if index < len(results) else None)

    def _results(self, node: NodeProto, label: str, program: Lowering) -> list[Operand]:
        if node.domain not in _OWN_DOMAINS:
            raise UnsupportedError(f"operators of the domain {node.domain:.64} are not supported")
        if max(len(node.input), len(node.output)) > MAX_OPERANDS:
            raise UnsupportedError(f"it has more than {MAX_OPERANDS} operands or results")
        attributes = read_attributes(node, self._largest_known())
        if node.op_type not in LOWERED:
            raise UnsupportedError(REASONS.get(node.op_type, "it is not supported"))
        missing = [name for name in node.input if name and name not in self.operands]
        if missing:
            raise ProgramError(f"it reads {missing[0]:.64}, which no earlier node computes")
        inputs = [self.operands[name] if name else None for name in node.input]
        without = [name for name in node.input if name in self.missing]
        if without:
            raise UnsupportedError(self.missing[without[0]])
        if any(name and operand is None for name, operand in zip(node.input, inputs, strict=True)):
            return []  # a node before it is listed already
        if node.op_type not in SEQUENCE_OPERATORS and any(each is not None and each.parts for each in inputs):
            raise UnsupportedError("it reads a sequence of arrays, which is not supported")
        call = Node(node.op_type, label, self.version, inputs, list(node.output), attributes)
        program.node_name = label[:MAX_NAME_LENGTH]
        known = folded(call, self._largest_known())
        results = [known] if known is not None else LOWERED[call.op](call, program)
        self._check_results(call, results)
        return results

    def _check_results(self, call: Node, results: list[Operand]) -> None:
        if call.unread():
            raise UnsupportedError(f"its {', '.join(call.unread())!s:.200} is not supported")
        for index, name in enumerate(call.outputs[len(results) :], start=len(results)):
            self.missing[name] = f"output {index} of {call.op:.64} in {call.name:.64} is not supported"
        self.num_known += sum(each.entries.size for each in results if each.entries is not None)

    def _define(self, name: str, operand: Operand | None) -> None:
        if name in self.operands:
            raise ProgramError(f"{name:.64} is computed twice")
        self.operands[name] = operand

    def _refuse(self) -> None:
        if self.refusals:
            listed = [f"{what}: {why}" for what, why in self.refusals.items()]
            more = f"; and {len(listed) - MAX_LISTED:,} more" if len(listed) > MAX_LISTED else ""
            raise ProgramError(f"it calls operators that cannot be used. {'; '.join(listed[:MAX_LISTED])}{more}")

    def _output(self, program: Lowering, inputs: dict[str, Operand]) -> tuple[str, tuple[Call, ...]]:
        """Return the name of the one output, which is that of the file, and the calls."""
        names = [value.name for value in self.graph.output]
        if len(names) != 1:
            raise ProgramError(
                f"it returns {len(names)} arrays; it must return one: export a network that returns, for example, the "
                "logits"
            )
        operand = self.operands.get(names[0])
        if operand is None or operand.name is None or not operand.name.startswith("v"):
            raise ProgramError(f"no node computes its output {names[0]:.64}")
        samples = next(iter(inputs.values())).shape[0]
        if not operand.shape or operand.shape[0] != samples:
            raise ProgramError("the first axis of its output is not that of the samples")
        new, old = f"output:{names[0]:.{MAX_NAME_LENGTH}}", operand.name
        program.values[new] = program.values.pop(old)
        return new, tuple(_renamed(call, old, new) for call in program.calls)


def _check_names(graph: GraphProto) -> None:
    """Refuse names that are not UTF-8, which protobuf returns as bytes.

    Raises:
        ProgramError: If there is one.
    """
    for values in (graph.initializer, graph.input, graph.output, graph.value_info):
        for value in values:
            _check_texts(value.name)
    for node in graph.node:
        _check_texts(node.name, node.op_type, node.domain, *node.input[:MAX_OPERANDS], *node.output[:MAX_OPERANDS])
        _check_texts(*(attribute.name for attribute in node.attribute))


def _check_texts(*names: object) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ProgramError(f"it has a name that is not UTF-8: {name!a:.64}")


def _renamed(call: Call, old: str, new: str) -> Call:
    """Return a call with another name for a value."""
    if old not in call.outputs and old not in call.names_read():
        return call

    def renamed(argument: Any) -> Any:
        if isinstance(argument, list):
            return [renamed(each) for each in argument]
        return {"$": new} if argument == {"$": old} else argument

    return replace(
        call,
        args=tuple(map(renamed, call.args)),
        kwargs={name: renamed(value) for name, value in call.kwargs.items()},
        outputs=tuple(new if name == old else name for name in call.outputs),
    )


def _type_and_shape(value: ValueInfoProto) -> tuple[str, Shape]:
    """Read type and shape of an input: the first axis may have any length, the others have fixed ones."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise ProgramError(f"its input {value.name:.64} is not an array with a shape")
    lengths: list[Dimension] = []
    for axis, each in enumerate(value.type.tensor_type.shape.dim):
        if each.HasField("dim_value") and each.dim_value > 0:
            lengths.append(each.dim_value)
        elif axis == 0:
            lengths.append(Length.of_samples())
        else:
            raise ProgramError(
                f"axis {axis} of its input {value.name:.64} has no fixed length: export it with fixed lengths for all "
                "axes except the first, which is that of the samples"
            )
    if not lengths:
        raise ProgramError(f"its input {value.name:.64} has no axis for the samples")
    return dtype_of(value.type.tensor_type.elem_type), tuple(lengths)
