"""Operators that move entries: reshape, transpose, slice, concatenate, pad, and arrays made from shapes."""

from typing import Any, cast

from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.uploads.onnx.folding import filling, slices
from hessian_spectrum.service.uploads.onnx.lengths import (
    Dimension,
    Length,
    Shape,
    broadcast,
    described,
    is_at_most,
    product,
    sign,
)
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import (
    Entries,
    Node,
    Operand,
    UnsupportedError,
    axis_of,
    known,
    object_array,
    whole_numbers,
)
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers

_ANY_POSITION = 2**31 - 1
"""Position from which on a slice ends at the end of the axis, whatever its length."""

_MAX_POSITIONS = 2**20
"""Largest number of positions along an axis that is read by a list of them."""


def values_of(node: Node, index: int) -> Entries:
    """Return the values of an operand that must be known while the file is read, such as a shape."""
    entries = node.operand(index).entries
    if entries is None:
        raise UnsupportedError(f"its input {index} is computed from data: it must be a constant or follow from shapes")
    return entries


def dimensions(node: Node, index: int) -> list[Dimension]:
    """Return the values of an operand that holds lengths."""
    entries = values_of(node, index).ravel().tolist()
    if not all(type(each) in (int, Length) for each in entries):
        raise UnsupportedError(f"its input {index} does not contain integers")
    return cast("list[Dimension]", entries)


def plain_integers(node: Node, index: int) -> list[int]:
    """Return the values of an operand that holds whole numbers, which do not depend on the number of samples."""
    entries = dimensions(node, index)
    if any(isinstance(each, Length) for each in entries):
        raise UnsupportedError(f"its input {index} depends on the number of samples")
    return cast("list[int]", entries)


def given_axes(node: Node, index: int, rank: int) -> list[int] | None:
    """Return axes from an operand or from the attribute of older versions; None if there are none."""
    axes = plain_integers(node, index) if node.optional(index) is not None else node.integers("axes")
    return None if axes is None else sorted(axis_of(axis, rank) for axis in axes)


def reshaped(program: Lowering, operand: Operand, shape: Shape) -> Operand:
    """Return an operand with its entries in another shape."""
    if shape == operand.shape:
        return operand
    if product(shape) != product(operand.shape):
        raise UnsupportedError(f"an array of shape {described(operand.shape)} cannot have shape {described(shape)}")
    return program.emit("reshape.default", operand, shape, shape=shape, dtype=operand.dtype)


def permuted(program: Lowering, operand: Operand, order: list[int]) -> Operand:
    """Return an operand with its axes in another order."""
    if sorted(order) != list(range(operand.rank)):
        raise UnsupportedError(f"{order!s:.64} is not a permutation of {operand.rank} axes")
    if order == sorted(order):
        return operand
    shape = tuple(operand.shape[axis] for axis in order)
    return program.emit("permute.default", operand, order, shape=shape, dtype=operand.dtype)


def with_length(operand: Operand, axis: int, length: Dimension) -> Shape:
    """Return the shape of an operand with another length along one axis."""
    return (*operand.shape[:axis], length, *operand.shape[axis + 1 :])


def picked(program: Lowering, operand: Operand, axis: int, positions: list[int]) -> Operand:
    """Return the entries at these positions along an axis."""
    if len(positions) > _MAX_POSITIONS:
        raise ProgramError("it reads an axis at too many positions")
    indices = known(object_array(positions), "int64")
    shape = with_length(operand, axis, len(positions))
    return program.emit("index_select.default", operand, axis, indices, shape=shape, dtype=operand.dtype)


def cut(program: Lowering, operand: Operand, axis: int, start: Dimension, end: Dimension, step: int = 1) -> Operand:
    """Return a slice along one axis; its ends lie within the array."""
    length = end - start
    if step != 1:
        if isinstance(length, Length):
            raise UnsupportedError("it selects only some of the samples")
        length = -(-length // step)
    if length == operand.shape[axis]:
        return operand
    shape = with_length(operand, axis, length)
    return program.emit("slice.Tensor", operand, axis, start, end, step, shape=shape, dtype=operand.dtype)


@lowers("Shape")
def shape_of(node: Node, _program: Lowering) -> list[Operand]:
    """Lengths along the axes from start to end."""
    shape = node.operand(0).shape
    end = node.integer("end", len(shape))
    return [whole_numbers(shape[slice(node.integer("start", 0), end)])]


@lowers("Size")
def size(node: Node, _program: Lowering) -> list[Operand]:
    """Number of entries."""
    return [known(object_array([product(node.operand(0).shape)]).reshape(()), "int64")]


@lowers("Constant")
def constant(node: Node, _program: Lowering) -> list[Operand]:
    """An array, a number, or a list of numbers."""
    array = node.operand_attribute("value")
    if array is not None:
        return [array]
    for name in ("value_int", "value_float"):
        if name in node.attributes:
            value: Any = node.integer(name, 0) if name == "value_int" else node.real(name, 0.0)
            dtype = "int64" if name == "value_int" else "float32"
            return [known(object_array([value]).reshape(()), dtype)]
    if "value_ints" in node.attributes:
        return [whole_numbers(node.integers("value_ints") or [])]
    return [known(object_array(node.reals("value_floats") or []), "float32")]


@lowers("ConstantOfShape")
def constant_of_shape(node: Node, program: Lowering) -> list[Operand]:
    """An array of equal entries."""
    shape = tuple(dimensions(node, 0))
    dtype, value = filling(node)
    return [program.emit("full.default", shape, value, shape=shape, dtype=dtype, cast=dtype)]


@lowers("Range")
def range_(node: Node, program: Lowering) -> list[Operand]:
    """Numbers from the first operand, up to the second and without it, in steps of the third."""
    node.ignore("stash_type")
    start, limit, step = (values_of(node, index).item() for index in range(3))
    dtype = node.operand(0).dtype
    if isinstance(step, Length) or step == 0:
        raise UnsupportedError("its step is 0, or depends on the number of samples")
    count = limit - start
    if step != 1:
        if isinstance(count, Length):
            raise UnsupportedError("it selects only some of the samples")
        count = -int((start - limit) // step)
    elif isinstance(count, float):
        count = -int(-count // 1)
    return [program.emit("arange.start_step", start, limit, step, shape=(count,), dtype=dtype, cast=dtype)]


@lowers("EyeLike")
def eye_like(node: Node, program: Lowering) -> list[Operand]:
    """The identity matrix."""
    node.refuse("k", 0)
    node.refuse("dtype", 1)
    shape = node.operand(0).shape
    if len(shape) != 2:
        raise UnsupportedError("its input is not a matrix")
    return [program.emit("eye.m", *shape, shape=shape, dtype="float32", cast="float32")]


@lowers("Reshape")
def reshape(node: Node, program: Lowering) -> list[Operand]:
    """The same entries in another shape: -1 stands for what is left, 0 for the length that is there."""
    operand, lengths = node.operand(0), dimensions(node, 1)
    if not node.truth("allowzero"):
        if any(length == 0 and axis >= operand.rank for axis, length in enumerate(lengths)):
            raise UnsupportedError("its shape keeps the length of an axis that does not exist")
        lengths = [operand.shape[axis] if length == 0 else length for axis, length in enumerate(lengths)]
    if lengths.count(-1) > 1:
        raise UnsupportedError("its shape leaves more than one length open")
    if -1 in lengths:
        rest = product(tuple(length for length in lengths if length != -1))
        if rest == 0 or (not isinstance(rest, Length) and rest < 0):
            raise UnsupportedError("its shape is not valid")
        left = product(operand.shape) // rest
        lengths[lengths.index(-1)] = left
    return [reshaped(program, operand, tuple(lengths))]


@lowers("Flatten")
def flatten(node: Node, program: Lowering) -> list[Operand]:
    """The entries as a matrix."""
    operand = node.operand(0)
    axis = node.integer("axis", 1)
    axis = axis if axis == operand.rank else axis_of(axis, operand.rank)
    return [reshaped(program, operand, (product(operand.shape[:axis]), product(operand.shape[axis:])))]


@lowers("Squeeze")
def squeeze(node: Node, program: Lowering) -> list[Operand]:
    """Without axes of length 1."""
    operand = node.operand(0)
    axes = given_axes(node, 1, operand.rank)
    if axes is None:
        axes = [axis for axis, length in enumerate(operand.shape) if length == 1]
    if any(operand.shape[axis] != 1 for axis in axes):
        raise UnsupportedError("an axis that it removes is longer than 1")
    shape = tuple(length for axis, length in enumerate(operand.shape) if axis not in axes)
    return [program.emit("squeeze.dims", operand, axes, shape=shape, dtype=operand.dtype)]


@lowers("Unsqueeze")
def unsqueeze(node: Node, program: Lowering) -> list[Operand]:
    """With further axes of length 1."""
    operand = node.operand(0)
    axes = plain_integers(node, 1) if node.optional(1) is not None else node.integers("axes") or []
    rank = operand.rank + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        shape = (*operand.shape[:axis], 1, *operand.shape[axis:])
        operand = program.emit("unsqueeze.default", operand, axis, shape=shape, dtype=operand.dtype)
    return [operand]


@lowers("Transpose")
def transpose(node: Node, program: Lowering) -> list[Operand]:
    """Axes in another order; reversed if none is given."""
    operand = node.operand(0)
    return [permuted(program, operand, node.integers("perm") or list(range(operand.rank))[::-1])]


@lowers("Expand")
def expand(node: Node, program: Lowering) -> list[Operand]:
    """Entries repeated along axes of length 1."""
    operand = node.operand(0)
    shape = broadcast(operand.shape, tuple(dimensions(node, 1)))
    if shape == operand.shape:
        return [operand]
    return [program.emit("expand.default", operand, shape, shape=shape, dtype=operand.dtype)]


@lowers("Tile")
def tile(node: Node, program: Lowering) -> list[Operand]:
    """The array repeated along each axis."""
    operand, repeats = node.operand(0), dimensions(node, 1)
    if len(repeats) != operand.rank or any(sign(each) <= 0 for each in repeats):
        raise UnsupportedError("its repeats do not match its input")
    shape = tuple(length * times for length, times in zip(operand.shape, repeats, strict=True))
    return [program.emit("repeat.default", operand, repeats, shape=shape, dtype=operand.dtype)]


@lowers("Concat")
def concat(node: Node, program: Lowering) -> list[Operand]:
    """Arrays one after the other along an axis."""
    operands = node.operands()
    first = operands[0]
    axis = node.axis(first.rank)
    total: Dimension = 0
    for operand in operands:
        if operand.rank != first.rank or with_length(operand, axis, 0) != with_length(first, axis, 0):
            raise UnsupportedError("its inputs do not match")
        total = total + operand.shape[axis]
    shape = with_length(first, axis, total)
    return [program.emit("cat.default", operands, axis, shape=shape, dtype=first.dtype)]


@lowers("Split")
def split(node: Node, program: Lowering) -> list[Operand]:
    """Consecutive parts along an axis."""
    operand = node.operand(0)
    axis = node.axis(operand.rank)
    length = operand.shape[axis]
    count = node.integer("num_outputs", len(node.outputs))
    if node.optional(1) is not None:
        sizes = plain_integers(node, 1)
    elif isinstance(length, Length) or not 1 <= count <= length:
        raise UnsupportedError("it splits the samples, or an axis into too many parts")
    else:
        each = -(-length // count)
        sizes = [each] * (count - 1) + [length - each * (count - 1)]
    if sum(sizes) != length or any(part <= 0 for part in sizes) or len(sizes) != len(node.outputs):
        raise UnsupportedError("the lengths of its parts do not add up to that of its input")
    results = [(with_length(operand, axis, part), operand.dtype) for part in sizes]
    return program.emit_several("split_with_sizes.default", operand, sizes, axis, results=results, is_list=True)


@lowers("Slice")
def slice_(node: Node, program: Lowering) -> list[Operand]:
    """Entries from starts to ends along axes, in steps."""
    operand = node.operand(0)
    arrays = [values_of(node, index) for index in range(1, len(node.inputs)) if node.optional(index) is not None]
    for axis, start, end, step in slices(node, operand.shape, arrays):
        length = operand.shape[axis]
        if step < 0:
            if isinstance(length, Length) or isinstance(start, Length) or isinstance(end, Length):
                raise UnsupportedError("it reverses the samples")
            stop = None if end < -length else end
            operand = picked(program, operand, axis, list(range(length))[start:stop:step])
        else:
            operand = cut(program, operand, axis, _within(start, length), _within(end, length), step)
    return [operand]


def _within(position: Dimension, length: Dimension) -> Dimension:
    """Return a position counted from the first entry; positions beyond an end of the axis stand for that end."""
    if is_at_most(position, -1):
        position = position + length
        if is_at_most(position, 0):
            return 0
    if is_at_most(position, length):
        return position
    if is_at_most(length, position) or (isinstance(position, int) and position >= _ANY_POSITION):
        return length
    raise UnsupportedError("it selects a number of samples that some batches may not have")


@lowers("Pad")
def pad(node: Node, program: Lowering) -> list[Operand]:
    """Further entries at the ends of axes: a constant, or entries of the array."""
    operand, amounts = node.operand(0), plain_integers(node, 1)
    mode = node.text("mode", "constant")
    axes = list(range(operand.rank))
    if node.optional(3) is not None:
        axes = [axis_of(axis, operand.rank) for axis in plain_integers(node, 3)]
    if len(amounts) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise UnsupportedError("its pads do not match its axes")
    pairs = dict(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    if mode == "constant":
        value = values_of(node, 2).item() if node.optional(2) is not None else 0
        return [padded(program, operand, pairs, value)]
    node.ignore_inputs(2)
    for axis, (before, after) in pairs.items():
        length = operand.shape[axis]
        if before or after:
            if isinstance(length, Length):
                raise UnsupportedError("it pads the samples")
            positions = _positions(mode, length, before, after)
            operand = picked(program, operand, axis, positions)
    return [operand]


def padded(program: Lowering, operand: Operand, pairs: dict[int, tuple[int, int]], value: Any = 0) -> Operand:
    """Return an operand with a constant before and after its entries along these axes."""
    if not any(before or after for before, after in pairs.values()):
        return operand
    shape = tuple(
        length + sum(pairs.get(axis, (0, 0))) if axis in pairs else length for axis, length in enumerate(operand.shape)
    )
    first = min(axis for axis, pair in pairs.items() if any(pair))
    amounts = [each for axis in range(operand.rank - 1, first - 1, -1) for each in pairs.get(axis, (0, 0))]
    return program.emit("constant_pad_nd.default", operand, amounts, value, shape=shape, dtype=operand.dtype)


def _positions(mode: str, length: int, before: int, after: int) -> list[int]:
    if max(before, after) > _MAX_POSITIONS or length > _MAX_POSITIONS:
        raise ProgramError("it pads an axis by too much")
    wanted = range(-before, length + after)
    match mode:
        case "edge":
            return [min(max(position, 0), length - 1) for position in wanted]
        case "wrap":
            return [position % length for position in wanted]
        case "reflect" if length > 1:
            period = 2 * (length - 1)
            return [min(position % period, period - position % period) for position in wanted]
    raise UnsupportedError(f"its mode {mode:.32} is not supported for this input")


@lowers("DepthToSpace")
def depth_to_space(node: Node, program: Lowering) -> list[Operand]:
    """Blocks of channels as blocks of pixels."""
    operand, block, mode = node.operand(0), node.integer("blocksize", 0), node.text("mode", "DCR")
    count, channels, height, width = _image(operand)
    if block < 1 or channels % block**2 or mode not in ("DCR", "CRD"):
        raise UnsupportedError("its block size does not match its channels")
    depth = channels // block**2
    outer = (block, block, depth) if mode == "DCR" else (depth, block, block)
    split_up = reshaped(program, operand, (count, *outer, height, width))
    order = [0, 3, 4, 1, 5, 2] if mode == "DCR" else [0, 1, 4, 2, 5, 3]
    return [reshaped(program, permuted(program, split_up, order), (count, depth, height * block, width * block))]


@lowers("SpaceToDepth")
def space_to_depth(node: Node, program: Lowering) -> list[Operand]:
    """Blocks of pixels as blocks of channels."""
    operand, block = node.operand(0), node.integer("blocksize", 0)
    count, channels, height, width = _image(operand)
    if block < 1 or height % block or width % block:
        raise UnsupportedError("its block size does not match its input")
    rows, columns = height // block, width // block
    split_up = reshaped(program, operand, (count, channels, rows, block, columns, block))
    moved = permuted(program, split_up, [0, 3, 5, 1, 2, 4])
    return [reshaped(program, moved, (count, channels * block**2, rows, columns))]


def _image(operand: Operand) -> tuple[Dimension, int, int, int]:
    if operand.rank != 4 or any(isinstance(length, Length) for length in operand.shape[1:]):
        raise UnsupportedError("its input is not a batch of images")
    count, *rest = operand.shape
    channels, height, width = cast("list[int]", rest)
    return count, channels, height, width
