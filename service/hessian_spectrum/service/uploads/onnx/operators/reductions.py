"""Operators along axes: sums, means, extremes, softmax, sorting."""

from hessian_spectrum.service.uploads.onnx.lengths import Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError, axis_of
from hessian_spectrum.service.uploads.onnx.operators.registry import LOWERED, lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import given_axes, plain_integers, with_length

_REDUCTIONS = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare"
)


def reduced_shape(shape: Shape, axes: list[int], keeps: bool) -> Shape:
    """Return the shape of an array that is reduced along axes."""
    if keeps:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)


def _reduce(node: Node, program: Lowering) -> list[Operand]:
    operand = node.operand(0)
    axes = given_axes(node, 1, operand.rank)
    keeps, changes_nothing = node.truth("keepdims", True), node.truth("noop_with_empty_axes")
    if not axes:
        axes = [] if changes_nothing else list(range(operand.rank))
    shape = reduced_shape(operand.shape, axes, keeps)

    def along(op: str, array: Operand, *options: object) -> Operand:
        return program.emit(op, array, *options, axes, keeps, shape=shape, dtype=array.dtype) if axes else array

    match node.op:
        case "ReduceSum":
            result = along("sum.dim_IntList", operand)
        case "ReduceMean":
            result = along("mean.dim", operand)
        case "ReduceMax":
            result = along("amax.default", operand)
        case "ReduceMin":
            result = along("amin.default", operand)
        case "ReduceL1":
            result = along("sum.dim_IntList", program.like("abs.default", operand))
        case "ReduceL2" if axes:
            result = along("linalg_vector_norm.default", operand, 2)
        case "ReduceL2":
            result = program.like("abs.default", operand)
        case "ReduceSumSquare":
            result = along("sum.dim_IntList", program.like("square.default", operand))
        case "ReduceLogSum":
            total = along("sum.dim_IntList", operand)
            result = program.like("log.default", total)
        case "ReduceLogSumExp":
            result = along("logsumexp.default", operand)
        case _:
            result = _product(program, operand, axes, keeps)
    return [result]


LOWERED.update(dict.fromkeys(_REDUCTIONS.split(), _reduce))


def _product(program: Lowering, operand: Operand, axes: list[int], keeps: bool) -> Operand:
    for axis in reversed(axes):
        shape = reduced_shape(operand.shape, [axis], keeps)
        operand = program.emit("prod.dim_int", operand, axis, keeps, shape=shape, dtype=operand.dtype)
    return operand


@lowers("ArgMax", "ArgMin")
def position_of_extreme(node: Node, program: Lowering) -> list[Operand]:
    """Position of the largest or smallest entry along an axis."""
    node.refuse("select_last_index", 0)
    operand = node.operand(0)
    axis, keeps = node.axis(operand.rank), node.truth("keepdims", True)
    shape = reduced_shape(operand.shape, [axis], keeps)
    op = "argmax.default" if node.op == "ArgMax" else "argmin.default"
    return [program.emit(op, operand, axis, keeps, shape=shape, dtype="int64")]


@lowers("Softmax", "LogSoftmax")
def softmax(node: Node, program: Lowering) -> list[Operand]:
    """Exponentials along an axis, divided by their sum, or the logarithm of that."""
    operand = node.operand(0)
    op = "softmax.int" if node.op == "Softmax" else "log_softmax.int"
    return [program.like(op, operand, node.axis(operand.rank, default=-1))]


@lowers("LpNormalization")
def lp_normalization(node: Node, program: Lowering) -> list[Operand]:
    """Entries divided by the norm along an axis."""
    operand = node.operand(0)
    axis, order = node.axis(operand.rank, default=-1), node.integer("p", 2)
    shape = with_length(operand, axis, 1)
    norm = program.emit("linalg_vector_norm.default", operand, order, [axis], True, shape=shape, dtype=operand.dtype)
    is_zero = program.emit("eq.Scalar", norm, 0, shape=shape, dtype="bool")
    divisor = program.like("masked_fill.Scalar", norm, is_zero, 1)
    return [program.like("div.Tensor", operand, divisor)]


@lowers("CumSum")
def cumulative_sum(node: Node, program: Lowering) -> list[Operand]:
    """Sums of the entries up to each position, or from it on, with it or without it."""
    operand = node.operand(0)
    (axis,) = plain_integers(node, 1)
    axis = axis_of(axis, operand.rank)
    is_reversed, is_exclusive = node.truth("reverse"), node.truth("exclusive")
    turned = program.like("flip.default", operand, [axis]) if is_reversed else operand
    total = program.like("cumsum.default", turned, axis)
    total = program.like("flip.default", total, [axis]) if is_reversed else total
    return [program.like("sub.Tensor", total, operand) if is_exclusive else total]


@lowers("TopK")
def largest(node: Node, program: Lowering) -> list[Operand]:
    """The largest or smallest entries along an axis, and their positions."""
    operand = node.operand(0)
    (count,) = plain_integers(node, 1)
    axis = node.axis(operand.rank, default=-1)
    length = operand.shape[axis]
    if isinstance(length, Length) or not 1 <= count <= length:
        raise UnsupportedError("it asks for more entries than there are, or compares samples")
    shape = with_length(operand, axis, count)
    is_largest, is_sorted = node.truth("largest", True), node.truth("sorted", True)
    results = [(shape, operand.dtype), (shape, "int64")]
    return program.emit_several("topk.default", operand, count, axis, is_largest, is_sorted, results=results)


@lowers("Trilu")
def triangle(node: Node, program: Lowering) -> list[Operand]:
    """The upper or lower triangle; other entries are 0."""
    diagonal = plain_integers(node, 1)[0] if node.optional(1) is not None else 0
    op = "triu.default" if node.truth("upper", True) else "tril.default"
    return [program.like(op, node.operand(0), diagonal)]
