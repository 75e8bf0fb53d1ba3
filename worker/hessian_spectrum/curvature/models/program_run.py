"""Runs of programs: their calls in order, on tensors, each by what is written out here or by PyTorch's operator."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.program_check import overload_named
from hessian_spectrum.curvature.models.written_out import WRITTEN_OUT
from hessian_spectrum.curvature.operators.products import is_memory_error
from hessian_spectrum.programs.operators import ARITHMETIC, INLINE, NO_GRAD, base_name
from hessian_spectrum.programs.program import FLOATING_DTYPES, MAX_INTEGER, Argument, Call, Program, Region
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Values = dict[str, Any]

_SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name.removeprefix("operator.")) for name in ARITHMETIC},
    "sym_max": max,
    "sym_min": min,
    "sym_float": float,
    "sym_int": int,
    "sym_not": operator.not_,
    "sym_ite": lambda condition, one, other: one if condition else other,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
}

_FACTORY_NAMES = """
arange blackman_window empty empty_strided eye full hamming_window hann_window linspace logspace ones scalar_tensor
tril_indices triu_indices zeros
"""

_FACTORIES = frozenset(f"aten.{name}" for name in _FACTORY_NAMES.split())
"""Operators that make floating-point numbers of the default type, whatever the type of the parameters."""

_CASTS = frozenset({"aten.to", "aten.type_as"})
"""Operators that return their argument itself where it has the type already."""


_MISUSE = (RuntimeError, LookupError, ArithmeticError, AttributeError, AssertionError, ValueError, TypeError)
"""What operators raise where a graph gives them arguments that they do not take."""


@dataclass(frozen=True)
class RunPrecision:
    """The type of all floating-point numbers of a run, and the device."""

    dtype: torch.dtype
    device: torch.device

    def type_named(self, name: str) -> torch.dtype:
        """Return the type that stands for the one in the graph: precision follows the parameters."""
        if name in FLOATING_DTYPES:
            return self.dtype
        if name.startswith("complex"):
            return torch.complex128 if self.dtype == torch.float64 else torch.complex64
        return getattr(torch, name)  # type: ignore[no-any-return]

    def cast(self, values: Tensor) -> Tensor:
        """Return the values in the precision of the run; whole numbers and truth values keep their type."""
        return values.to(self.device, self.dtype if values.is_floating_point() else values.dtype)


@dataclass(frozen=True)
class ProgramRun:
    """One run of a program's calls on values by name; `has_changes` says whether some change values in place."""

    precision: RunPrecision
    program: Program
    has_changes: bool

    def calls(self, calls: Sequence[Call], values: Values, freed: Mapping[int, list[str]] | None = None) -> None:
        """Run the calls in order; their results are added to the values, and those in `freed` removed."""
        for index, call in enumerate(calls):
            try:
                results = self.results(call, values)
            except _MISUSE as error:
                if is_memory_error(error):
                    raise
                raise _failure(call, error) from error
            for name, result in zip(call.outputs, results, strict=False):
                if name is not None:
                    values[name] = result
            for name in (freed or {}).get(index, ()):
                values.pop(name, None)

    def results(self, call: Call, values: Values) -> Sequence[Any]:
        """Run one call, and return its results."""
        if call.op in (NO_GRAD, INLINE):
            return self._region(call, values)
        args = [self.argument(each, values) for each in call.args]
        kwargs = {name: self.argument(each, values) for name, each in call.kwargs.items()}
        name = base_name(call.op)
        if name in _FACTORIES and call.outputs[0] is not None:
            dtype = self.precision.type_named(self.program.values[call.outputs[0]].dtype)
            kwargs |= {"dtype": dtype, "device": self.precision.device}
        result = _function(call.op)(*args, **kwargs)
        if self.has_changes and name in _CASTS and self._changes_type(call):
            result = result.clone()  # it may be the argument itself, now that both have the type of the run
        is_several = call.returns_list or len(call.outputs) > 1
        return result if is_several else (result,)

    def _changes_type(self, call: Call) -> bool:
        """Return whether argument and result had different types when the program was exported."""
        names = (next(call.names_read()), *call.outputs)
        known = {**self.program.values, **self.program.inputs}
        values = (known.get(name) for name in names if name is not None)
        return len({value.dtype for value in values if value is not None}) > 1

    def _region(self, call: Call, values: Values) -> Sequence[Any]:
        (region,) = call.regions
        inner = {name: self.argument(each, values) for name, each in zip(region.inputs, call.args[1:], strict=True)}
        if call.op == INLINE:
            return self._outputs(region, inner)
        # forward mode would pass tangents through operations that reverse mode does not record
        with torch.no_grad():
            inner = {name: _detached(value) for name, value in inner.items()}
            return [_detached(result) for result in self._outputs(region, inner)]

    def _outputs(self, region: Region, values: Values) -> list[Any]:
        self.calls(region.calls, values)
        return [values[name] for name in region.outputs]

    def argument(self, argument: Argument, values: Values) -> Any:
        """Return an argument, with values in place of their names."""
        if isinstance(argument, list):
            return [self.argument(each, values) for each in argument]
        if not isinstance(argument, dict):
            return argument
        ((kind, value),) = argument.items()
        return values[value] if kind == "$" else self._setting(kind, value)

    def _setting(self, kind: str, value: Any) -> Any:
        """Return an argument that is a type, a device, or a number that JSON does not have."""
        match kind:
            case "dtype":
                return self.precision.type_named(value)
            case "float":
                return float(value)
            case "memory_format":
                return getattr(torch, value)
            case "device":
                return self.precision.device
        raise InvalidProblemError(f"the program has an argument of an unknown kind {kind!r}")


def _failure(call: Call, error: Exception) -> Exception:
    """Return the error of a call that names it: of the problem, or where a rule may be missing, one for a fallback."""
    where = call.op + (f" of the module {call.module}" if call.module else "")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    message = f"{where} fails: {reason:.300}"
    # of functions that are transformed, operators may fail that work as they are
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return RuntimeError(message)
    return InvalidProblemError(message)


def bounded_size(function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of arithmetic on lengths; integers of any number of digits would hold the interpreter for ever.

    Args:
        function: The operation.
        *args: Integers of at most 64 bits, numbers, or truth values.

    Raises:
        ValueError: If the result is an integer of more than 64 bits.
    """
    if function is operator.pow and all(isinstance(each, int) for each in args):
        base, exponent = args
        if abs(base) > 1 and abs(base).bit_length() * exponent > 2 * MAX_INTEGER.bit_length():
            raise ValueError("the power is too large for a length")
    result = function(*args)
    if isinstance(result, int) and abs(result) > MAX_INTEGER:
        raise ValueError("the result is too large for a length")
    return result


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _function(op: str) -> Callable[..., Any]:
    """Return what runs an operator: the one that is written out here, or that of PyTorch."""
    name = base_name(op)
    if name in WRITTEN_OUT:
        return WRITTEN_OUT[name]
    if name in _SIZE_FUNCTIONS:
        return partial(bounded_size, _SIZE_FUNCTIONS[name])
    return overload_named(op)
