"""Operators that read or write entries at positions that may come from data."""

from typing import cast

from hessian_spectrum.service.uploads.onnx.lengths import Length, broadcast
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError, axis_of, known, object_array
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import picked, reshaped, values_of

_SCATTERS = {"none": "scatter.src", "add": "scatter_add.default"}


def _positions(operand: Operand, indices: Operand, axis: int) -> list[int] | None:
    """Return known positions along an axis, counted from the first one; None if they are not known."""
    length = operand.shape[axis]
    if indices.entries is None:
        return None
    positions = indices.entries.ravel().tolist()
    if isinstance(length, Length) or not all(type(each) is int for each in positions):
        return None
    if any(not -length <= each < length for each in positions):
        raise UnsupportedError("it reads positions that the axis does not have")
    return [each % length for each in cast("list[int]", positions)]


def _indices(operand: Operand, indices: Operand, axis: int) -> Operand:
    """Return indices without negative numbers, where they are known: not all of PyTorch's operators take them."""
    positions = _positions(operand, indices, axis)
    if positions is None:
        return indices
    entries = object_array(positions).reshape(cast("tuple[int, ...]", indices.shape))
    return known(entries, "int64")


@lowers("Gather")
def gather(node: Node, program: Lowering) -> list[Operand]:
    """Entries at positions along an axis."""
    operand, indices = node.operand(0), node.operand(1)
    axis = node.axis(operand.rank)
    shape = (*operand.shape[:axis], *indices.shape, *operand.shape[axis + 1 :])
    positions = _positions(operand, indices, axis)
    if positions is not None and indices.rank == 0:
        return [program.emit("select.int", operand, axis, positions[0], shape=shape, dtype=operand.dtype)]
    if positions is not None:
        return [reshaped(program, picked(program, operand, axis, positions), shape)]
    if axis == 0 and operand.rank == 2 and operand.is_real:
        return [program.emit("embedding.default", operand, indices, shape=shape, dtype=operand.dtype)]
    selection = [None] * axis + [indices]
    return [program.emit("index.Tensor", operand, selection, shape=shape, dtype=operand.dtype)]


@lowers("GatherElements")
def gather_elements(node: Node, program: Lowering) -> list[Operand]:
    """Entries at positions along an axis, one for each entry of the result."""
    operand, indices = node.operand(0), node.operand(1)
    axis = node.axis(operand.rank)
    if indices.rank != operand.rank:
        raise UnsupportedError("its positions do not match its input")
    found = _indices(operand, indices, axis)
    return [program.emit("gather.default", operand, axis, found, shape=indices.shape, dtype=operand.dtype)]


def _split_up(program: Lowering, operand: Operand, indices: Operand, batch: int) -> list[Operand]:
    """Return the positions along each axis that indices have in their last axis, after those of the batch."""
    depth = indices.shape[-1]
    if isinstance(depth, Length) or not 1 <= depth <= operand.rank - batch or batch >= indices.rank:
        raise UnsupportedError("its positions do not match its input")
    shape = indices.shape[:-1]
    found = []
    for axis in range(batch):
        ones = [1] * (len(shape) - axis - 1)
        steps = program.emit("arange.start_step", 0, shape[axis], 1, shape=(shape[axis],), dtype="int64", cast="int64")
        found.append(reshaped(program, steps, (shape[axis], *ones)))
    return found + [
        program.emit("select.int", indices, -1, index, shape=shape, dtype=indices.dtype) for index in range(depth)
    ]


@lowers("GatherND")
def gather_nd(node: Node, program: Lowering) -> list[Operand]:
    """Entries at positions of several axes."""
    operand, indices, batch = node.operand(0), node.operand(1), node.integer("batch_dims", 0)
    if not 0 <= batch < min(operand.rank, max(1, indices.rank)) or indices.rank == 0:
        raise UnsupportedError("its positions do not match its input")
    selection = _split_up(program, operand, indices, batch)
    shape = (*indices.shape[:-1], *operand.shape[len(selection) :])
    return [program.emit("index.Tensor", operand, selection, shape=shape, dtype=operand.dtype)]


@lowers("ScatterElements")
def scatter_elements(node: Node, program: Lowering) -> list[Operand]:
    """Entries replaced or added to at positions along an axis."""
    operand, indices, updates = (node.operand(index) for index in range(3))
    axis, mode = node.axis(operand.rank), node.text("reduction", "none")
    if mode not in _SCATTERS:
        raise UnsupportedError(f"its reduction {mode:.32} is not supported")
    if indices.rank != operand.rank or indices.shape != updates.shape:
        raise UnsupportedError("its positions do not match its input")
    return [program.like(_SCATTERS[mode], operand, axis, _indices(operand, indices, axis), updates)]


@lowers("ScatterND")
def scatter_nd(node: Node, program: Lowering) -> list[Operand]:
    """Entries replaced or added to at positions of several axes."""
    operand, indices, updates = (node.operand(index) for index in range(3))
    mode = node.text("reduction", "none")
    if mode not in _SCATTERS or indices.rank == 0:
        raise UnsupportedError(f"its reduction {mode:.32} is not supported")
    selection = _split_up(program, operand, indices, 0)
    expected = (*indices.shape[:-1], *operand.shape[len(selection) :])
    if updates.shape != expected:
        raise UnsupportedError("its updates do not match its positions")
    return [program.like("index_put.default", operand, selection, updates, mode == "add")]


@lowers("OneHot")
def one_hot(node: Node, program: Lowering) -> list[Operand]:
    """An axis with one value at the position of each index, and another value elsewhere."""
    indices, values = node.operand(0), node.operand(2)
    (depth,) = values_of(node, 1).ravel().tolist()
    if values.shape != (2,) or not isinstance(depth, (int, float)) or not 1 <= depth <= 2**20:
        raise UnsupportedError("its depth or values are not supported")
    depth = int(depth)
    axis = axis_of(node.integer("axis", -1), indices.rank + 1)
    column = (*indices.shape[:axis], 1, *indices.shape[axis:])
    positions = reshaped(program, indices, column)
    is_negative = program.emit("lt.Scalar", positions, 0, shape=column, dtype="bool")
    wrapped = program.like("add.Tensor", positions, depth)
    wrapped = program.emit("where.self", is_negative, wrapped, positions, shape=column, dtype=indices.dtype)
    steps = program.emit("arange.start_step", 0, depth, 1, shape=(depth,), dtype="int64", cast="int64")
    steps = reshaped(program, steps, (depth, *[1] * (indices.rank - axis)))
    shape = broadcast(column, steps.shape)
    is_there = program.emit("eq.Tensor", wrapped, steps, shape=shape, dtype="bool")
    off, on = (program.emit("select.int", values, 0, index, shape=(), dtype=values.dtype) for index in (0, 1))
    return [program.emit("where.self", is_there, on, off, shape=shape, dtype=values.dtype)]
