"""The program that grows while the nodes of an ONNX graph are lowered: its calls, values and constants."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.programs.operators import refusal
from hessian_spectrum.programs.program import MAX_CALLS, Call, ProgramError, Value
from hessian_spectrum.service.uploads.onnx.lengths import Length, Shape
from hessian_spectrum.service.uploads.onnx.node import Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.tensors import named_array
from hessian_spectrum.storage.artifact_files import NamedArray

EXAMPLE_SAMPLES = 8
"""Number of samples for which the shapes of intermediate values are stored; costs are counted from these shapes."""


class Lowering:
    """Collects calls of PyTorch's operators in order.

    Args:
        input_name: Name in the program of an input whose first axis is that of the samples.
    """

    def __init__(self, input_name: str) -> None:
        self.calls: list[Call] = []
        self.values: dict[str, Value] = {}
        self.arrays: dict[str, NamedArray] = {}
        self.constants: dict[str, str] = {}
        self.node_name = ""
        self._input_name = input_name
        self._sizes: dict[Length, str] = {}
        self._num_sizes = 0

    def emit(self, op: str, *args: Any, shape: Shape, dtype: str, cast: str | None = None, **kwargs: Any) -> Operand:
        """Add a call with one result.

        Args:
            op: Name of the operator with its overload, without `aten.`.
            args: Operands, numbers, lengths, texts, or lists of them.
            shape: Shape of the result.
            dtype: Type of the result.
            cast: The operator's own argument `dtype`, if it is given one.
            kwargs: Arguments by name.

        Returns:
            The result.
        """
        name = self._new_name(shape, dtype)
        if cast is not None:
            kwargs["dtype"] = {"dtype": cast}
        self._call(f"aten.{op}", args, kwargs, (name,))
        return Operand(dtype, shape, name)

    def emit_several(
        self, op: str, *args: Any, results: Sequence[tuple[Shape, str]], is_list: bool = False
    ) -> list[Operand]:
        """Add a call with several results, of these shapes and types."""
        names = [self._new_name(shape, dtype) for shape, dtype in results]
        self._call(f"aten.{op}", args, {}, tuple(names), is_list)
        return [Operand(dtype, shape, name) for name, (shape, dtype) in zip(names, results, strict=True)]

    def like(self, op: str, operand: Operand, *args: Any, **kwargs: Any) -> Operand:
        """Add a call that keeps the shape and type of its first argument."""
        return self.emit(op, operand, *args, shape=operand.shape, dtype=operand.dtype, **kwargs)

    def add_value(self, name: str, shape: Shape, dtype: str) -> None:
        """Store the type and the shape of a value that no call computes."""
        self.values[name] = value_of(shape, dtype)

    def add_constant(self, dtype: str, numbers: NDArray[Any]) -> str:
        """Store an array as a constant; return its name in the program."""
        if dtype != "bfloat16" and np.isnan(numbers).any():
            raise ProgramError(f"a constant of the node {self.node_name:.64} holds NaN")
        name = f"c{len(self.constants)}"
        array = f"constant:{len(self.constants)}"
        self.arrays[array] = named_array(dtype, numbers)
        self.constants[name] = array
        self.add_value(name, numbers.shape, dtype)
        return name

    def literal(self, operand: Operand) -> Any:
        """Return a single known value as a number or as a size; None if it is not known."""
        if operand.entries is None or operand.entries.size != 1 or operand.rank > 0:
            return None
        (value,) = operand.entries.ravel()
        return value

    def _call(
        self, op: str, args: Sequence[Any], kwargs: dict[str, Any], outputs: tuple[str, ...], is_list: bool = False
    ) -> None:
        positional = tuple(map(self._argument, args))
        named = {name: self._argument(value) for name, value in kwargs.items()}
        reason = refusal(op, named)
        if reason is not None:
            raise UnsupportedError(reason)
        if len(self.calls) >= MAX_CALLS:
            raise ProgramError(f"it has more than {MAX_CALLS:,} calls")
        self.calls.append(Call(op, positional, named, outputs, is_list, self.node_name))

    def _new_name(self, shape: Shape, dtype: str) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value_of(shape, dtype)
        return name

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Operand):
            return {"$": self._named(value)}
        if isinstance(value, Length):
            return {"$": self._size(value)}
        if isinstance(value, (list, tuple)):
            return [self._argument(each) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            if math.isnan(value):
                raise UnsupportedError("one of its constants is NaN")
            return {"float": "inf" if value > 0 else "-inf"}
        return value

    def _named(self, operand: Operand) -> str:
        """Return the name of an operand in the program; constants are stored when they are first read."""
        if operand.name is None:
            if operand.stored is not None:
                operand.name = self.add_constant(operand.dtype, operand.stored)
            elif operand.entries is None:
                raise ProgramError("it reads a value that no node computes")
            elif any(isinstance(each, Length) for each in operand.entries.flat):
                operand.name = self._lengths(operand)
            else:
                numbers = operand.entries.astype(operand.dtype if operand.dtype != "bfloat16" else "float32")
                operand.name = self.add_constant(str(numbers.dtype), numbers)
        return operand.name

    def _lengths(self, operand: Operand) -> str:
        """Return the name of an array of lengths, which calls compute from the number of samples."""
        if operand.entries is None or operand.rank > 1:
            raise UnsupportedError("it reads an array of lengths that depend on the number of samples")
        dtype = operand.dtype
        entries = [
            self.emit("scalar_tensor.default", each, shape=(), dtype=dtype, cast=dtype) for each in operand.entries.flat
        ]
        if operand.rank == 0:
            return self._named(entries[0])
        return self._named(self.emit("stack.default", entries, shape=operand.shape, dtype=operand.dtype))

    def _size(self, length: Length) -> str:
        """Return the name of a length: arithmetic on the number of samples, by Horner's scheme, written once."""
        if length not in self._sizes:
            samples = Length.of_samples()
            if length == samples:
                self._sizes[length] = self._number("aten.sym_size.int", {"$": self._input_name}, 0)
            else:
                *lower, highest = length.coefficients
                number: Any = highest
                for each in reversed(lower):
                    number = {"$": self._number("operator.mul", {"$": self._size(samples)}, number)}
                    number = {"$": self._number("operator.add", number, each)} if each else number
                self._sizes[length] = number["$"]
        return self._sizes[length]

    def _number(self, op: str, *args: Any) -> str:
        self._num_sizes += 1
        name = f"s{self._num_sizes}"
        self.calls.append(Call(op, args, {}, (name,)))
        return name


def value_of(shape: Shape, dtype: str) -> Value:
    """Return the type and the shape of a value for the example number of samples."""
    lengths = tuple(length.at(EXAMPLE_SAMPLES) if isinstance(length, Length) else length for length in shape)
    if 0 in lengths:
        raise ProgramError("it computes an array without entries")
    return Value(dtype, lengths, tuple(axis for axis, length in enumerate(shape) if isinstance(length, Length)))
