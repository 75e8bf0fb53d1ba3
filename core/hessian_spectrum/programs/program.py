"""A network as a graph of operators on named values, in a form that holds no code and can be read by anyone.

A program is a list of calls, in order. Each reads values by name and gives names to its results:

    {"op": "aten.linear.default", "args": [{"$": "x"}, {"$": "weight"}], "outputs": ["linear"], "module": "head"}

Arguments are numbers, texts, lists, `{"$": name}` for a value, `{"dtype": name}`, or `{"graph": {...}}` for the body of
a region. Its stored form is a safetensors file: the arrays of parameters and constants, with the graph as JSON.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

MAX_CALLS = 50_000
"""Largest number of calls in a program, those of its regions included."""

MAX_VALUES = 100_000
MAX_NAME_LENGTH = 256
MAX_DIMENSIONS = 16
MAX_NUMBERS_OF_A_VALUE = 2**40
"""Largest number of entries of one intermediate value on the example inputs, far beyond any memory."""

MAX_NESTING = 32
"""Depth to which regions and lists of arguments may be nested."""

MAX_TEXT_LENGTH = 256
"""Largest length of an argument that is a text, such as the equation of an einsum."""

MAX_INTEGER = 2**63
"""Integers among the arguments are smaller."""

_OPERATOR = re.compile(r"aten\.[A-Za-z_]\w*\.[A-Za-z]\w*|operator\.[a-z]\w*|[a-z]\w*", re.ASCII)
"""Names of operators; of PyTorch's packets, attributes such as `__setattr__` are no overloads."""

_ARGUMENT_KINDS = frozenset({"$", "dtype", "float", "memory_format", "device", "graph"})

DTYPES = frozenset(
    {"uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool", "complex64"}
    | {"complex128"}
)
"""Names of the types that values may have."""

FLOATING_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})

Argument = Any
"""A number, a text, None, a list of arguments, or a dictionary with one key: `$`, `dtype` or `graph`."""


class ProgramError(ValueError):
    """A program that cannot be used; the message says why, as a sentence without a full stop."""


@dataclass(frozen=True)
class Value:
    """Type and shape of a value on the example inputs.

    Attributes:
        dtype: One of `DTYPES`.
        shape: Length along each axis.
        dynamic: Axes whose length follows the number of samples.
    """

    dtype: str
    shape: tuple[int, ...]
    dynamic: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ProgramError(f"values of type {self.dtype!s:.32} are not supported")
        if len(self.shape) > MAX_DIMENSIONS:
            raise ProgramError(f"a value has {len(self.shape)} dimensions; at most {MAX_DIMENSIONS} are supported")
        if any(length < 0 for length in self.shape) or math.prod(self.shape) > MAX_NUMBERS_OF_A_VALUE:
            raise ProgramError("a value has an impossible shape")
        if any(not 0 <= axis < len(self.shape) for axis in self.dynamic):
            raise ProgramError("a dynamic axis lies outside of the value's shape")

    @property
    def size(self) -> int:
        """Number of entries on the example inputs."""
        return math.prod(self.shape)

    def to_json(self) -> list[Any]:
        """Return the JSON form."""
        return [self.dtype, list(self.shape), list(self.dynamic)]

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Read the JSON form."""
        dtype, shape, dynamic = fields
        return cls(str(dtype), tuple(map(int, shape)), tuple(map(int, dynamic)))


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        op: Name of the operator with its overload, as `aten.linear.default`.
        args: Positional arguments.
        kwargs: Arguments by name.
        outputs: Names of the results in order; None where a result is not used.
        returns_list: Whether the operator returns one list, whose entries the outputs name.
        module: Path of the module that made the call, for messages.
    """

    op: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    outputs: tuple[str | None, ...]
    returns_list: bool = False
    module: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without fields that have their default."""
        fields: dict[str, Any] = {"op": self.op, "args": list(self.args), "outputs": list(self.outputs)}
        fields |= {"kwargs": dict(self.kwargs)} if self.kwargs else {}
        fields |= {"returns_list": True} if self.returns_list else {}
        return fields | ({"module": self.module} if self.module else {})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read the JSON form."""
        return cls(
            op=fields["op"],
            args=tuple(fields["args"]),
            kwargs=fields.get("kwargs", {}),
            outputs=tuple(fields["outputs"]),
            returns_list=fields.get("returns_list", False),
            module=fields.get("module", ""),
        )

    @property
    def regions(self) -> list["Region"]:
        """Bodies among the arguments."""
        arguments = (*self.args, *self.kwargs.values())
        return [Region.from_json(each["graph"]) for each in arguments if isinstance(each, dict) and "graph" in each]

    def names_read(self) -> Iterator[str]:
        """Yield the names of the values that the call reads, those inside its regions not included."""
        for argument in (*self.args, *self.kwargs.values()):
            yield from _names(argument)


def _names(argument: Argument) -> Iterator[str]:
    if isinstance(argument, dict):
        if "$" in argument:
            yield argument["$"]
    elif isinstance(argument, list):
        for each in argument:
            yield from _names(each)


@dataclass(frozen=True)
class Region:
    """The body of a region that has rules of its own, such as one without gradients.

    Attributes:
        inputs: Names of its arguments.
        calls: What it does.
        outputs: Names of its results.
    """

    inputs: tuple[str, ...]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        calls = [call.to_json() for call in self.calls]
        return {"inputs": list(self.inputs), "calls": calls, "outputs": list(self.outputs)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read the JSON form."""
        calls = tuple(Call.from_json(each) for each in fields["calls"])
        return cls(tuple(fields["inputs"]), calls, tuple(fields["outputs"]))


@dataclass(frozen=True)
class Parameter:
    """A parameter, stored once even if the network uses it under several names.

    Attributes:
        name: Its name in the module, which is that of its array.
        value: Type and shape.
        is_trainable: Whether it is differentiated; others are constants.
        aliases: Names in the graph.
    """

    name: str
    value: Value
    is_trainable: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A network as a graph.

    Attributes:
        source: The format of the file that it was read from.
        parameters: Parameters in the order of the flat vector.
        constants: Names of constants in the graph, each with the name of its array.
        inputs: Names of the inputs, in order, with types and shapes.
        output: Name of the output.
        body: The calls, from the inputs, parameters and constants to the output.
        values: Types and shapes of intermediate values on the example inputs, by name.
    """

    source: str
    parameters: tuple[Parameter, ...]
    constants: Mapping[str, str]
    inputs: Mapping[str, Value]
    output: str
    body: tuple[Call, ...]
    values: Mapping[str, Value]

    @property
    def output_value(self) -> Value:
        """Type and shape of the output on the example inputs."""
        return self.values[self.output]

    @property
    def example_size(self) -> int:
        """Number of samples in the example inputs."""
        return next(iter(self.inputs.values())).shape[0]

    @property
    def fixed_size(self) -> int | None:
        """The number of samples that the program accepts; None if it accepts any."""
        return None if all(0 in value.dynamic for value in self.inputs.values()) else self.example_size

    def calls(self) -> Iterator[Call]:
        """Yield all calls, those of regions included."""
        return _all_calls(self.body)

    def to_json(self) -> str:
        """The graph as a JSON document with sorted keys, so that equal graphs have equal documents."""
        parameters = [
            {"name": each.name, "value": each.value.to_json(), "trainable": each.is_trainable, "aliases": each.aliases}
            for each in self.parameters
        ]
        document = {
            "source": self.source,
            "parameters": parameters,
            "constants": dict(self.constants),
            "inputs": [[name, value.to_json()] for name, value in self.inputs.items()],
            "output": self.output,
            "body": [call.to_json() for call in self.body],
            "values": {name: value.to_json() for name, value in self.values.items()},
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the JSON document that `to_json` wrote."""
        document = json.loads(text)
        parameters = tuple(
            Parameter(each["name"], Value.from_json(each["value"]), each["trainable"], tuple(each["aliases"]))
            for each in document["parameters"]
        )
        return cls(
            source=document["source"],
            parameters=parameters,
            constants=document["constants"],
            inputs={name: Value.from_json(value) for name, value in document["inputs"]},
            output=document["output"],
            body=tuple(Call.from_json(each) for each in document["body"]),
            values={name: Value.from_json(value) for name, value in document["values"].items()},
        )

    def check(self) -> None:
        """Check that the graph can be run: that each value exists before it is read, once, and that it is bounded.

        Raises:
            ProgramError: If it cannot; the message says why.
        """
        if sum(1 for _ in self.calls()) > MAX_CALLS:
            raise ProgramError(f"it has more than {MAX_CALLS:,} calls")
        if len(self.values) > MAX_VALUES:
            raise ProgramError(f"it has more than {MAX_VALUES:,} values")
        self._check_inputs()
        if not any(each.is_trainable for each in self.parameters):
            raise ProgramError("it has no parameters that are differentiated")
        given = [*self.inputs, *self.constants, *(alias for each in self.parameters for alias in each.aliases)]
        known = set(given)
        if len(known) < len(given):
            raise ProgramError("two of its inputs, parameters and constants have the same name")
        for name in (*known, *self.values, *self.constants.values(), *(each.name for each in self.parameters)):
            _check_name(name)
        _check_calls(self.body, known, depth=0)
        if self.output not in known:
            raise ProgramError(f"no call computes its output {self.output:.64}")
        if self.output in given:
            raise ProgramError(f"its output {self.output:.64} is one of its inputs, parameters or constants")
        if self.output not in self.values or self.output_value.dtype not in FLOATING_DTYPES:
            raise ProgramError("its output is not an array of floating-point numbers")
        if not self.output_value.shape or self.output_value.shape[0] != self.example_size:
            raise ProgramError("the first axis of its output is not that of the samples")

    def _check_inputs(self) -> None:
        if not self.inputs:
            raise ProgramError("it has no inputs")
        for name, value in self.inputs.items():
            if not value.shape or value.size == 0:
                raise ProgramError(f"its input {name:.64} has no axis of samples, or no numbers in the example")


def _all_calls(calls: tuple[Call, ...]) -> Iterator[Call]:
    for call in calls:
        yield call
        for region in call.regions:
            yield from _all_calls(region.calls)


def _check_calls(calls: tuple[Call, ...], known: set[str], depth: int) -> None:
    if depth > MAX_NESTING:
        raise ProgramError("its regions are nested too deeply")
    for call in calls:
        _check_operator(call)
        for name in call.names_read():
            if name not in known:
                raise ProgramError(f"{call.op:.64} reads {name:.64}, which no earlier call computes")
        for region in call.regions:
            inner = set(region.inputs)
            _check_calls(region.calls, inner, depth + 1)
            if not inner.issuperset(region.outputs):
                raise ProgramError(f"a region of {call.op:.64} returns a value that it does not compute")
        for output in call.outputs:
            if output is None:
                continue
            if output in known:
                raise ProgramError(f"{output:.64} is computed twice")
            known.add(output)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise ProgramError(f"it has a name that is not one to {MAX_NAME_LENGTH} printable characters: {name!a:.64}")


def _check_operator(call: Call) -> None:
    """Check that a call names an operator rather than an attribute of one, and that its arguments are bounded."""
    if not isinstance(call.op, str) or not _OPERATOR.fullmatch(call.op):
        raise ProgramError(f"{call.op!a:.64} is not the name of an operator")
    for output in call.outputs:
        if output is not None:
            _check_name(output)
    for argument in (*call.args, *call.kwargs.values()):
        _check_argument(call, argument, depth=0)


def _check_argument(call: Call, argument: Argument, depth: int) -> None:
    if isinstance(argument, list) and depth < MAX_NESTING:
        for each in argument:
            _check_argument(call, each, depth + 1)
    elif isinstance(argument, dict) and len(argument) == 1:
        ((kind, value),) = argument.items()
        if kind not in _ARGUMENT_KINDS or (kind == "$" and not isinstance(value, str)):
            raise ProgramError(f"{call.op:.64} has an argument of an unknown kind {kind!a:.32}")
    elif isinstance(argument, str):
        if len(argument) > MAX_TEXT_LENGTH:
            raise ProgramError(f"{call.op:.64} has a text of more than {MAX_TEXT_LENGTH} characters")
    elif isinstance(argument, int | float):
        if not (math.isfinite(argument) if isinstance(argument, float) else abs(argument) < MAX_INTEGER):
            raise ProgramError(f"{call.op:.64} has a number that is too large")
    elif argument is not None:
        raise ProgramError(f"{call.op:.64} has an argument of an unknown kind")
