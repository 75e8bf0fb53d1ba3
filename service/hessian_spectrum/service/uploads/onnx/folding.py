"""Arithmetic on values that are known while the file is read: shapes, lengths, axes and scalars.

Entries are Python's integers, floats and booleans, and lengths that depend on the number of samples, in numpy arrays
of objects. A function whose result cannot be written for every number of samples raises `UnknownLengthError`.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.uploads.onnx.lengths import Length, UnknownLengthError, sign
from hessian_spectrum.service.uploads.onnx.node import (
    MAX_ENTRIES,
    Entries,
    Node,
    Operand,
    UnsupportedError,
    axis_of,
    known,
    object_array,
)
from hessian_spectrum.service.uploads.onnx.tensors import dtype_of, is_floating

_LARGEST = 2**63

Fold = Callable[[Node, list[Entries]], Any]


def folded(node: Node, largest: int = MAX_ENTRIES) -> Operand | None:
    """Compute the one result of a node whose operands are all known.

    Args:
        node: The node.
        largest: Largest number of entries of an operand and of the result.

    Returns:
        The result; None if an operand is not known, or the operator is computed by the program.

    Raises:
        UnsupportedError: If the operands do not fit together.
    """
    if node.op not in FOLDS or not node.inputs or len(node.outputs) != 1:
        return None
    present = [operand for operand in node.inputs if operand is not None]
    if any(operand.entries is None or not operand.is_foldable for operand in present):
        return None
    arrays = [cast("Entries", operand.entries) for operand in present]
    if any(array.size > largest for array in arrays):
        return None
    result_type, fold = FOLDS[node.op]
    try:
        entries = _as_array(fold(node, arrays))
        _check(entries, largest)
    except UnknownLengthError:
        return None
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, np.exceptions.AxisError) as error:
        if isinstance(error, ProgramError):
            raise
        raise UnsupportedError(f"its constant operands do not fit together ({type(error).__name__})") from None
    node.ignore_inputs(*range(len(node.inputs)))
    return known(entries, result_type(node, present))


def _as_array(value: Any) -> Entries:
    if isinstance(value, np.ndarray):
        return value if value.dtype == object else value.astype(object)
    array = np.empty((), object)
    array[()] = value
    return array


def _check(entries: Entries, largest: int) -> None:
    if entries.size > largest:
        raise UnknownLengthError("it computes shapes or constants with too many entries")
    for each in entries.flat:
        if isinstance(each, int) and abs(each) > _LARGEST:
            raise ProgramError("it computes a shape or constant with numbers that are too large")


def _each(function: Callable[..., Any]) -> Fold:
    """Apply a function entry by entry; its arguments are whether the first operand is real, and the entries."""

    def fold(node: Node, arrays: list[Entries]) -> Any:
        _check_size(arrays)
        is_real = node.operand(0).is_real
        return np.frompyfunc(lambda *values: function(is_real, *values), len(arrays), 1)(*arrays)

    return fold


def _check_size(arrays: list[Entries]) -> None:
    if math.prod(np.broadcast_shapes(*(array.shape for array in arrays))) > MAX_ENTRIES:
        raise UnknownLengthError("it computes shapes or constants with too many entries")


def _divided(is_real: bool, one: Any, other: Any) -> Any:
    if isinstance(one, Length) or isinstance(other, Length):
        return one // other
    if is_real:
        return one / other
    return int(math.copysign(1, one) * math.copysign(1, other)) * (abs(one) // abs(other))


def _remainder(node: Node, arrays: list[Entries]) -> Any:
    """Remainder with the sign of the divisor, or with that of the dividend where fmod is 1."""
    keeps_sign = node.truth("fmod")

    def one_remainder(is_real: bool, one: Any, other: Any) -> Any:
        if isinstance(one, Length) or isinstance(other, Length):
            _ = one // other  # without a remainder, or it raises
            return 0
        if is_real:
            return math.fmod(one, other) if keeps_sign else one % other
        return one - other * _divided(False, one, other) if keeps_sign else one % other

    return _each(one_remainder)(node, arrays)


def _power(_is_real: bool, base: Any, exponent: Any) -> Any:
    if isinstance(base, Length) or isinstance(exponent, Length) or abs(exponent) > 64:
        raise UnknownLengthError("it computes a power of a length that depends on the number of samples")
    return base**exponent


def _of_number(function: Callable[[float], float]) -> Fold:
    def apply(_is_real: bool, value: Any) -> float:
        if isinstance(value, Length):
            raise UnknownLengthError("it applies a function to a length that depends on the number of samples")
        return function(value)

    return _each(apply)


def _chosen(condition: Any, one: Any, other: Any) -> Any:
    return one if condition else other


def _extreme(is_largest: bool) -> Fold:
    def choose(_is_real: bool, *values: Any) -> Any:
        best = values[0]
        for each in values[1:]:
            if (sign(each - best) > 0) == is_largest:
                best = each
        return best

    return _each(choose)


def _cast(node: Node, arrays: list[Entries]) -> Any:
    target = dtype_of(node.integer("to", 0)) if node.op == "Cast" else node.operand(1).dtype
    node.ignore("saturate", "round_mode")

    def convert(_is_real: bool, value: Any) -> Any:
        if target == "bool":
            return sign(value) != 0 if not isinstance(value, bool) else value
        if isinstance(value, Length):
            return value
        return float(value) if is_floating(target) else int(value)

    return _each(convert)(node, arrays[:1])


def _cast_type(node: Node, operands: list[Operand]) -> str:
    return dtype_of(node.integer("to", 0)) if node.op == "Cast" else operands[1].dtype


def _integers(array: Entries) -> list[int]:
    """Return plain integers, such as the numbers of axes."""
    numbers = array.ravel().tolist()
    if not all(type(each) is int for each in numbers):
        raise UnknownLengthError("an axis or position depends on the number of samples")
    return cast("list[int]", numbers)


def _gather(node: Node, arrays: list[Entries]) -> Any:
    data, indices = arrays
    axis = node.axis(data.ndim)
    positions = np.array(_integers(indices), np.int64).reshape(indices.shape)
    if data.size // max(1, data.shape[axis]) * max(1, positions.size) > MAX_ENTRIES:
        raise UnknownLengthError("it computes shapes or constants with too many entries")
    return np.take(data, positions, axis)


def slices(node: Node, shape: tuple[Any, ...], arrays: list[Entries]) -> list[tuple[int, Any, Any, int]]:
    """Return axis, first and last position and step of each slice that a node takes.

    Args:
        node: The node, whose further operands are starts, ends, axes and steps.
        shape: Shape of the array.
        arrays: Starts, ends, and axes and steps where they are given.

    Returns:
        One slice for each axis that is named; positions may lie outside the array.
    """
    starts, ends, *rest = (array.ravel().tolist() for array in arrays)
    optional = iter(rest)
    axes = next(optional) if node.optional(3) is not None else list(range(len(starts)))
    steps = next(optional) if node.optional(4) is not None else [1] * len(starts)
    if len({len(starts), len(ends), len(axes), len(steps)}) != 1 or not all(
        type(each) is int for each in (*axes, *steps)
    ):
        raise UnsupportedError("its starts, ends, axes and steps must be equally many, and the last two integers")
    if 0 in steps:
        raise UnsupportedError("one of its steps is 0")
    positive = [axis_of(axis, len(shape)) for axis in axes]
    if len(set(positive)) != len(positive):
        raise UnsupportedError("it names an axis twice")
    return list(zip(positive, starts, ends, steps, strict=True))


def _slice(node: Node, arrays: list[Entries]) -> Any:
    data, *rest = arrays
    index = [slice(None)] * data.ndim
    for axis, start, end, step in slices(node, data.shape, rest):
        if isinstance(start, Length) or isinstance(end, Length):
            raise UnknownLengthError("the positions of a slice depend on the number of samples")
        stop = None if step < 0 and end < -data.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return data[tuple(index)]


def _reshape(node: Node, arrays: list[Entries]) -> Any:
    data, shape = arrays
    lengths = _integers(shape)
    if not node.truth("allowzero"):
        lengths = [data.shape[axis] if length == 0 else length for axis, length in enumerate(lengths)]
    return data.reshape(lengths)


def _unsqueeze(node: Node, arrays: list[Entries]) -> Any:
    return np.expand_dims(arrays[0], tuple(_integers(arrays[1])))


def _squeeze(node: Node, arrays: list[Entries]) -> Any:
    return np.squeeze(arrays[0], tuple(_integers(arrays[1])) if len(arrays) > 1 else None)


def _concat(node: Node, arrays: list[Entries]) -> Any:
    return np.concatenate(arrays, axis_of(node.integer("axis", 0), arrays[0].ndim))


def _expand(node: Node, arrays: list[Entries]) -> Any:
    shape = np.broadcast_shapes(arrays[0].shape, tuple(_small(_integers(arrays[1]))))
    _small(list(shape))
    return np.broadcast_to(arrays[0], shape).copy()


def _tile(node: Node, arrays: list[Entries]) -> Any:
    repeats = _integers(arrays[1])
    _small([*arrays[0].shape, *repeats])
    return np.tile(arrays[0], repeats)


def _small(shape: list[int]) -> list[int]:
    if any(length < 0 for length in shape):
        raise UnsupportedError("it has a negative length")
    if math.prod(shape) > MAX_ENTRIES:
        raise UnknownLengthError("it computes shapes or constants with too many entries")
    return shape


def _transpose(node: Node, arrays: list[Entries]) -> Any:
    return np.transpose(arrays[0], node.integers("perm"))


def _range(node: Node, arrays: list[Entries]) -> Any:
    start, limit, step = (array.item() for array in arrays)
    if any(isinstance(each, Length) for each in (start, limit, step)):
        raise UnknownLengthError("it makes a range that depends on the number of samples")
    count = max(0, math.ceil((limit - start) / step))
    _small([count])
    return object_array([start + step * index for index in range(count)])


def _filled(node: Node, arrays: list[Entries]) -> Any:
    shape = _small(_integers(arrays[0]))
    return np.full(shape, filling(node)[1], object)


def filling(node: Node) -> tuple[str, Any]:
    """Return the type and the value of the entries of ConstantOfShape."""
    value = node.operand_attribute("value")
    if value is None:
        return "float32", 0.0
    if value.entries is None or value.entries.size != 1:
        raise UnsupportedError("its value is not a single number")
    return value.dtype, value.entries.item()


def _reduced(function: Callable[[Any, Any], Any], start: Any) -> Fold:
    def fold(node: Node, arrays: list[Entries]) -> Any:
        data, *rest = arrays
        axes = _integers(rest[0]) if rest else node.integers("axes") or []
        node.ignore("axes")
        keeps = node.truth("keepdims", True)
        changes_nothing = node.truth("noop_with_empty_axes")
        if not axes and changes_nothing:
            return data
        positive = [axis_of(axis, data.ndim) for axis in axes] or list(range(data.ndim))
        moved = np.moveaxis(data, positive, range(len(positive)))
        shape = moved.shape[len(positive) :]
        flat = moved.reshape(-1, *shape)
        total = np.full(shape, start, object)
        for each in flat:
            total = np.frompyfunc(function, 2, 1)(total, each)
        return np.expand_dims(_as_array(total), sorted(positive)) if keeps else total

    return fold


def _first(_node: Node, operands: list[Operand]) -> str:
    return operands[0].dtype


def _of(index: int) -> Callable[[Node, list[Operand]], str]:
    return lambda _node, operands: operands[index].dtype


def _always(dtype: str) -> Callable[[Node, list[Operand]], str]:
    return lambda _node, _operands: dtype


_ROOT = _of_number(math.sqrt)

FOLDS: dict[str, tuple[Callable[[Node, list[Operand]], str], Fold]] = {
    "Add": (_first, _each(lambda _, one, other: one + other)),
    "Sub": (_first, _each(lambda _, one, other: one - other)),
    "Mul": (_first, _each(lambda _, one, other: one * other)),
    "Div": (_first, _each(_divided)),
    "Mod": (_first, _remainder),
    "Pow": (_first, _each(_power)),
    "Neg": (_first, _each(lambda _, value: -value)),
    "Abs": (_first, _each(lambda _, value: -value if sign(value) < 0 else value)),
    "Min": (_first, _extreme(False)),
    "Max": (_first, _extreme(True)),
    "Sqrt": (_first, _ROOT),
    "Reciprocal": (_first, _of_number(lambda value: 1 / value)),
    "Exp": (_first, _of_number(math.exp)),
    "Log": (_first, _of_number(math.log)),
    "Floor": (_first, _of_number(lambda value: float(math.floor(value)))),
    "Ceil": (_first, _of_number(lambda value: float(math.ceil(value)))),
    "Cast": (_cast_type, _cast),
    "CastLike": (_cast_type, _cast),
    "Equal": (_always("bool"), _each(lambda _, one, other: sign(one - other) == 0)),
    "Less": (_always("bool"), _each(lambda _, one, other: sign(one - other) < 0)),
    "LessOrEqual": (_always("bool"), _each(lambda _, one, other: sign(one - other) <= 0)),
    "Greater": (_always("bool"), _each(lambda _, one, other: sign(one - other) > 0)),
    "GreaterOrEqual": (_always("bool"), _each(lambda _, one, other: sign(one - other) >= 0)),
    "Not": (_first, _each(lambda _, value: not value)),
    "And": (_first, _each(lambda _, one, other: one and other)),
    "Or": (_first, _each(lambda _, one, other: one or other)),
    "Where": (_of(1), _each(lambda _, *values: _chosen(*values))),
    "Gather": (_first, _gather),
    "Slice": (_first, _slice),
    "Reshape": (_first, _reshape),
    "Unsqueeze": (_first, _unsqueeze),
    "Squeeze": (_first, _squeeze),
    "Concat": (_first, _concat),
    "Expand": (_first, _expand),
    "Tile": (_first, _tile),
    "Transpose": (_first, _transpose),
    "Range": (_first, _range),
    "ConstantOfShape": (lambda node, _: filling(node)[0], _filled),
    "ReduceProd": (_first, _reduced(lambda one, other: one * other, 1)),
    "ReduceSum": (_first, _reduced(lambda one, other: one + other, 0)),
}
"""For each operator, the type of its result and the function that computes it."""
