"""A node of an ONNX graph, in the form that is lowered: its operands and its checked attributes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto

from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.uploads.onnx.lengths import Dimension, Shape
from hessian_spectrum.service.uploads.onnx.tensors import is_floating, read_tensor

MAX_ENTRIES = 4096
"""Largest number of entries of an array, such as a shape, whose values are computed while the file is read."""

MAX_ENTRIES_OF_MANY = 64
"""The same where a file has very many constants: enough for shapes and axes."""

Entries = NDArray[np.object_]
"""Values of an array that are known while the file is read: integers, lengths, real numbers or booleans."""


class UnsupportedError(Exception):
    """A node that cannot be lowered; the message says why, and what to change."""


@dataclass(eq=False)
class Operand:
    """A value of the graph.

    Attributes:
        dtype: Type of its entries.
        shape: Length along each axis.
        name: Its name in the program; None while no call computes it.
        entries: Its values, where they are known while the file is read.
        is_foldable: Whether arithmetic on it may be done while the file is read.
        stored: Numbers of a constant; None for other values.
        parts: The arrays of a sequence; None if it is an array.
    """

    dtype: str
    shape: Shape
    name: str | None = None
    entries: Entries | None = None
    is_foldable: bool = True
    stored: NDArray[Any] | None = None
    parts: "tuple[Operand, ...] | None" = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_real(self) -> bool:
        """Whether its entries are real numbers."""
        return is_floating(self.dtype)


def known(entries: Entries, dtype: str) -> Operand:
    """Return an operand of known values."""
    return Operand(dtype, entries.shape, entries=entries)


def whole_numbers(values: Sequence[Dimension]) -> Operand:
    """Return a one-dimensional operand of known integers, such as a shape."""
    return known(object_array(list(values)), "int64")


def object_array(values: Any) -> Entries:
    """Return values as an array of Python objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


@dataclass
class Node:
    """One call of an ONNX operator.

    Attributes:
        op: Name of the operator.
        name: Name of the node, or that of its first output.
        version: Version of the set of operators of the file.
        inputs: Operands in order; None where an optional one is left out.
        outputs: Names of the results; empty where one is not used.
        attributes: Values by name.
    """

    op: str
    name: str
    version: int
    inputs: list[Operand | None]
    outputs: list[str]
    attributes: dict[str, Any]
    _read: set[str] = field(default_factory=set)
    _read_inputs: set[int] = field(default_factory=set)

    def operand(self, index: int) -> Operand:
        """Return an operand that must be there."""
        found = self.optional(index)
        if found is None:
            raise UnsupportedError(f"its input {index} is missing")
        return found

    def optional(self, index: int) -> Operand | None:
        """Return an operand, or None if it is left out."""
        self._read_inputs.add(index)
        return self.inputs[index] if index < len(self.inputs) else None

    def operands(self) -> list[Operand]:
        """Return all operands, of which there must be at least one."""
        return [self.operand(index) for index in range(max(1, len(self.inputs)))]

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        return int(self._attribute(name, default, lambda value: type(value) is int))

    def truth(self, name: str, default: bool = False) -> bool:
        """Return an attribute that is 0 or 1."""
        return bool(self._attribute(name, int(default), lambda value: value in (0, 1)))

    def real(self, name: str, default: float) -> float:
        """Return an attribute that is a finite real number."""
        return float(self._attribute(name, default, lambda value: type(value) is float and math.isfinite(value)))

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        return str(self._attribute(name, default, lambda value: type(value) is str))

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers; None if it is left out."""
        return self._attribute(name, None, lambda value: _is_list(value, int))  # type: ignore[no-any-return]

    def texts(self, name: str) -> list[str] | None:
        """Return an attribute that is a list of strings; None if it is left out."""
        return self._attribute(name, None, lambda value: _is_list(value, str))  # type: ignore[no-any-return]

    def reals(self, name: str) -> list[float] | None:
        """Return an attribute that is a list of real numbers; None if it is left out."""
        return self._attribute(name, None, lambda value: _is_list(value, float))  # type: ignore[no-any-return]

    def operand_attribute(self, name: str) -> Operand | None:
        """Return an attribute that is an array; None if it is left out."""
        return self._attribute(name, None, lambda value: isinstance(value, Operand))  # type: ignore[no-any-return]

    def axis(self, rank: int, name: str = "axis", default: int = 0) -> int:
        """Return an attribute that is an axis, counted from the first one."""
        return axis_of(self.integer(name, default), rank)

    def refuse(self, name: str, default: Any) -> None:
        """Refuse the node unless an attribute is left out or has its default."""
        self._attribute(name, default, lambda value: value == default)

    def ignore(self, *names: str) -> None:
        """Accept attributes that change nothing here."""
        self._read.update(names)

    def ignore_inputs(self, *indices: int) -> None:
        """Accept operands that change nothing here."""
        self._read_inputs.update(indices)

    def unread(self) -> list[str]:
        """Return the attributes and operands that nothing has read."""
        attributes = [f"attribute {name:.64}" for name in sorted(self.attributes.keys() - self._read)]
        given = {index for index, operand in enumerate(self.inputs) if operand is not None}
        return attributes + [f"input {index}" for index in sorted(given - self._read_inputs)]

    def _attribute(self, name: str, default: Any, fits: Callable[[Any], bool]) -> Any:
        self._read.add(name)
        if name not in self.attributes:
            return default
        value = self.attributes[name]
        if not fits(value):
            raise UnsupportedError(f"its attribute {name} has an unsupported value: {value!s:.40}")
        return value


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(each) is kind for each in value)


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the first one; negative numbers count from the end."""
    if not -rank <= axis < rank:
        raise UnsupportedError(f"an array of {rank} axes has no axis {axis}")
    return axis % rank


_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def read_attributes(node: NodeProto, largest: int = MAX_ENTRIES) -> dict[str, Any]:
    """Read the attributes of a node; arrays become operands.

    Args:
        node: The node.
        largest: Largest number of entries of an array whose values are known.

    Returns:
        The attributes by name.

    Raises:
        UnsupportedError: If one is of a kind that is not supported.
        ProgramError: If one occurs twice, or its array is damaged.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ProgramError(f"a node has the attribute {attribute.name:.64} twice")
        if attribute.ref_attr_name:
            raise ProgramError(f"a node refers to the attribute {attribute.ref_attr_name:.64} of a function")
        if attribute.type in _SUBGRAPHS:
            raise UnsupportedError(
                "it contains a subgraph, but branches and loops are not supported. Export the network with a fixed "
                "number of steps, so that its loops are unrolled"
            )
        if attribute.type == AttributeProto.TENSOR:
            tensor = attribute.t
            found[attribute.name] = constant(*read_tensor(tensor, tensor.name or "of a node"), largest=largest)
            continue
        if attribute.type not in _READERS:
            raise UnsupportedError(f"its attribute {attribute.name:.64} is of an unsupported kind")
        found[attribute.name] = _READERS[attribute.type](attribute)
    return found


def _text(value: bytes) -> str:
    if len(value) > 1024:
        raise UnsupportedError("one of its strings is too long")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnsupportedError("one of its strings is not UTF-8") from None


_READERS: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.FLOAT: lambda attribute: shortest(attribute.f),
    AttributeProto.STRING: lambda attribute: _text(attribute.s),
    AttributeProto.INTS: lambda attribute: list(attribute.ints),
    AttributeProto.FLOATS: lambda attribute: [shortest(each) for each in attribute.floats],
    AttributeProto.STRINGS: lambda attribute: [_text(each) for each in attribute.strings],
}


def shortest(value: float) -> float:
    """Return the number with the fewest decimal digits that rounds to the same number in single precision.

    ONNX stores settings and scalars such as 1e-5 in single precision. Jobs in double precision use the intended number.
    """
    return float(str(np.float32(value)))


def constant(dtype: str, numbers: NDArray[Any], *, largest: int = MAX_ENTRIES) -> Operand:
    """Return a constant as an operand; its values are known if it has at most `largest` entries."""
    entries = None
    if numbers.size <= largest and dtype != "bfloat16":
        plain = numbers.astype(bool) if dtype == "bool" else numbers
        values = plain.ravel().tolist()
        if dtype == "float32" and numbers.ndim == 0:
            values = [shortest(each) for each in values]
        entries = object_array(values).reshape(numbers.shape)
    return Operand(dtype, numbers.shape, entries=entries, stored=numbers)
