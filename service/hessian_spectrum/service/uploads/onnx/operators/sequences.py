"""Sequences of arrays, as PyTorch's exporter writes the parts of a split; their lengths are known."""

from hessian_spectrum.service.uploads.onnx.lengths import Dimension, Length
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError, axis_of
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import plain_integers, values_of, with_length

READERS = frozenset({"SequenceAt", "ConcatFromSequence"})
"""Operators that read a sequence."""

_MAX_PARTS = 4096


def _sequence(parts: list[Operand]) -> Operand:
    if not 1 <= len(parts) <= _MAX_PARTS:
        raise UnsupportedError("its sequence has no arrays, or too many")
    return Operand(parts[0].dtype, (len(parts),), parts=tuple(parts))


def _parts(node: Node) -> tuple[Operand, ...]:
    parts = node.operand(0).parts
    if parts is None:
        raise UnsupportedError("its input is not a sequence")
    return parts


@lowers("SequenceConstruct")
def construct(node: Node, _program: Lowering) -> list[Operand]:
    """A sequence of the operands."""
    return [_sequence(node.operands())]


@lowers("SplitToSequence")
def split(node: Node, program: Lowering) -> list[Operand]:
    """Consecutive parts along an axis: of these lengths, of one length, or of length 1."""
    operand = node.operand(0)
    axis = node.axis(operand.rank)
    length = operand.shape[axis]
    if isinstance(length, Length):
        raise UnsupportedError("it splits the samples")
    keeps = node.truth("keepdims", True)
    sizes = _sizes(node, length)
    if sum(sizes) != length or any(size < 1 for size in sizes) or len(sizes) > _MAX_PARTS:
        raise UnsupportedError("the lengths of its parts do not add up to that of its input")
    results = [(with_length(operand, axis, size), operand.dtype) for size in sizes]
    parts = program.emit_several("split_with_sizes.default", operand, sizes, axis, results=results, is_list=True)
    if node.optional(1) is None and not keeps:
        parts = [
            program.emit(
                "squeeze.dims", part, [axis], shape=part.shape[:axis] + part.shape[axis + 1 :], dtype=part.dtype
            )
            for part in parts
        ]
    return [_sequence(parts)]


def _sizes(node: Node, length: int) -> list[int]:
    given = node.optional(1)
    if given is None:
        return [1] * min(length, _MAX_PARTS + 1)
    sizes = plain_integers(node, 1)
    if given.rank == 1:
        return sizes
    (size,) = sizes
    if size < 1 or length // size > _MAX_PARTS:
        raise UnsupportedError("the lengths of its parts do not add up to that of its input")
    count, rest = divmod(length, size)
    return [size] * count + ([rest] if rest else [])


@lowers("SequenceAt")
def at(node: Node, _program: Lowering) -> list[Operand]:
    """One array of a sequence."""
    parts = _parts(node)
    position = values_of(node, 1).item()
    if type(position) is not int:
        raise UnsupportedError("its position depends on the number of samples")
    return [parts[axis_of(position, len(parts))]]


@lowers("ConcatFromSequence")
def concat(node: Node, program: Lowering) -> list[Operand]:
    """The arrays of a sequence one after the other along an axis, or side by side along a new one."""
    parts = list(_parts(node))
    first = parts[0]
    if node.truth("new_axis"):
        if any(part.shape != first.shape for part in parts):
            raise UnsupportedError("its arrays do not match")
        axis = axis_of(node.integer("axis", 0), first.rank + 1)
        shape = (*first.shape[:axis], len(parts), *first.shape[axis:])
        return [program.emit("stack.default", parts, axis, shape=shape, dtype=first.dtype)]
    axis = node.axis(first.rank)
    total: Dimension = 0
    for part in parts:
        if part.rank != first.rank or with_length(part, axis, 0) != with_length(first, axis, 0):
            raise UnsupportedError("its arrays do not match")
        total = total + part.shape[axis]
    shape = with_length(first, axis, total)
    return [program.emit("cat.default", parts, axis, shape=shape, dtype=first.dtype)]
