"""Convolutions, pooling and resampling of images."""

import math
from dataclasses import dataclass
from typing import cast

from hessian_spectrum.service.uploads.onnx.lengths import Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import cut, padded, plain_integers

_MAX_SETTING = 2**20
"""Largest stride, padding or dilation."""


@dataclass(frozen=True)
class Window:
    """How a window moves over the axes of an image.

    Attributes:
        kernel: Lengths of the window.
        stride: Steps of the window.
        dilation: Distances of its entries.
        before: Entries added before each axis.
        after: Entries added after each axis.
    """

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]

    @property
    def is_symmetric(self) -> bool:
        """Whether both ends of each axis get the same number of entries."""
        return self.before == self.after

    @property
    def pairs(self) -> dict[int, tuple[int, int]]:
        """Entries before and after, by axis of an array whose first two are samples and channels."""
        return dict(enumerate(zip(self.before, self.after, strict=True), start=2))

    def output(self, lengths: list[int], *, rounds_up: bool = False) -> list[int]:
        """Return the number of positions of the window along each axis."""
        found = []
        for axis, length in enumerate(lengths):
            span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            room = length + self.before[axis] + self.after[axis] - span
            if room < 0:
                raise UnsupportedError("its window is larger than its input")
            steps = -(-room // self.stride[axis]) if rounds_up else room // self.stride[axis]
            # a window must not begin in the padding after the axis
            if rounds_up and steps * self.stride[axis] >= length + self.before[axis]:
                steps -= 1
            found.append(steps + 1)
        return found


def spatial_lengths(operand: Operand) -> list[int]:
    """Return the lengths of the axes after samples and channels."""
    lengths = list(operand.shape[2:])
    if not 1 <= len(lengths) <= 3 or any(isinstance(length, Length) for length in operand.shape[1:]):
        raise UnsupportedError("its input is not a batch of signals, images or volumes of fixed size")
    return cast("list[int]", lengths)


def _settings(node: Node, name: str, count: int, default: int, smallest: int) -> list[int]:
    values = node.integers(name)
    values = [default] * count if values is None else values
    if len(values) != count or any(not smallest <= each <= _MAX_SETTING for each in values):
        raise UnsupportedError(f"its attribute {name} does not match its input")
    return values


def window(node: Node, lengths: list[int], kernel: list[int]) -> Window:
    """Read how the window of a node moves.

    Args:
        node: A convolution or pooling.
        lengths: Lengths of the image's axes.
        kernel: Lengths of the window.

    Returns:
        The window, with the padding that `auto_pad` stands for.
    """
    rank = len(lengths)
    if _settings(node, "kernel_shape", rank, 0, 0) not in ([0] * rank, kernel):
        raise UnsupportedError("its kernel_shape is not that of its weights")
    stride = _settings(node, "strides", rank, 1, 1)
    dilation = _settings(node, "dilations", rank, 1, 1)
    pads = _settings(node, "pads", 2 * rank, 0, 0)
    mode = node.text("auto_pad", "NOTSET")
    before, after = pads[:rank], pads[rank:]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        spans = [each * (size - 1) + 1 for each, size in zip(dilation, kernel, strict=True)]
        total = [
            max(0, (-(-length // step) - 1) * step + span - length)
            for length, step, span in zip(lengths, stride, spans, strict=True)
        ]
        smaller, larger = [each // 2 for each in total], [-(-each // 2) for each in total]
        before, after = (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
    elif mode == "VALID":
        before, after = [0] * rank, [0] * rank
    elif mode != "NOTSET":
        raise UnsupportedError(f"its auto_pad {mode:.32} is not supported")
    return Window(kernel, stride, dilation, before, after)


def _weights(node: Node, rank: int) -> tuple[Operand, list[int]]:
    weights = node.operand(1)
    if weights.rank != rank or any(isinstance(length, Length) for length in weights.shape):
        raise UnsupportedError("its weights do not match its input")
    return weights, cast("list[int]", list(weights.shape[2:]))


@lowers("Conv")
def convolution(node: Node, program: Lowering) -> list[Operand]:
    """Convolution of 1 to 3 axes, in groups of channels."""
    operand, lengths = node.operand(0), spatial_lengths(node.operand(0))
    weights, kernel = _weights(node, operand.rank)
    moves, groups = window(node, lengths, kernel), node.integer("group", 1)
    channels, filters = cast("int", operand.shape[1]), cast("int", weights.shape[0])
    if groups < 1 or cast("int", weights.shape[1]) * groups != channels or filters % groups:
        raise UnsupportedError("its channels do not match its groups")
    shape: Shape = (operand.shape[0], filters, *moves.output(lengths))
    padding = moves.before
    if not moves.is_symmetric:
        operand, padding = padded(program, operand, moves.pairs), [0] * len(lengths)
    options = (moves.stride, padding, moves.dilation, groups)
    op = f"conv{len(lengths)}d.default"
    return [program.emit(op, operand, weights, node.optional(2), *options, shape=shape, dtype=operand.dtype)]


@lowers("ConvTranspose")
def transposed_convolution(node: Node, program: Lowering) -> list[Operand]:
    """Transpose of a convolution with stride."""
    operand, lengths = node.operand(0), spatial_lengths(node.operand(0))
    weights, kernel = _weights(node, operand.rank)
    rank, groups = len(lengths), node.integer("group", 1)
    node.refuse("output_shape", None)
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError("its auto_pad is not supported: specify pads")
    moves = window(node, lengths, kernel)
    further = _settings(node, "output_padding", rank, 0, 0)
    channels = cast("int", operand.shape[1])
    if groups < 1 or weights.shape[0] != channels or channels % groups:
        raise UnsupportedError("its channels do not match its groups")
    padding = [min(pair) for pair in moves.pairs.values()]
    full = [
        (length - 1) * step + spread * (size - 1) + 1 - 2 * removed + extra
        for length, step, spread, size, removed, extra in zip(
            lengths, moves.stride, moves.dilation, kernel, padding, further, strict=True
        )
    ]
    if any(
        extra >= max(step, spread) for extra, step, spread in zip(further, moves.stride, moves.dilation, strict=True)
    ):
        raise UnsupportedError("its output_padding is not smaller than its stride")
    shape: Shape = (operand.shape[0], cast("int", weights.shape[1]) * groups, *full)
    op = f"conv_transpose{rank}d." + ("default" if rank == 1 else "input")
    options = (moves.stride, padding, further, groups, moves.dilation)
    result = program.emit(op, operand, weights, node.optional(2), *options, shape=shape, dtype=operand.dtype)
    for axis, (before, after) in moves.pairs.items():
        length = full[axis - 2]
        result = cut(program, result, axis, before - padding[axis - 2], length - (after - padding[axis - 2]))
    return [result]


def _pooling(node: Node) -> tuple[Operand, list[int], Window, bool]:
    operand, lengths = node.operand(0), spatial_lengths(node.operand(0))
    kernel = _settings(node, "kernel_shape", len(lengths), 0, 1)
    return operand, lengths, window(node, lengths, kernel), node.truth("ceil_mode")


def _fits_torch(moves: Window) -> bool:
    halves = all(before <= size // 2 for before, size in zip(moves.before, moves.kernel, strict=True))
    return moves.is_symmetric and halves


@lowers("MaxPool")
def max_pool(node: Node, program: Lowering) -> list[Operand]:
    """Largest entry in each window."""
    node.ignore("storage_order")
    operand, lengths, moves, rounds_up = _pooling(node)
    shape: Shape = (*operand.shape[:2], *moves.output(lengths, rounds_up=rounds_up))
    padding = moves.before
    if not _fits_torch(moves):
        operand, padding = padded(program, operand, moves.pairs, -math.inf), [0] * len(lengths)
    options = (moves.kernel, moves.stride, padding, moves.dilation, rounds_up)
    op = f"max_pool{len(lengths)}d.default"
    return [program.emit(op, operand, *options, shape=shape, dtype=operand.dtype)]


@lowers("AveragePool")
def average_pool(node: Node, program: Lowering) -> list[Operand]:
    """Mean of each window."""
    operand, lengths, moves, rounds_up = _pooling(node)
    counts_padding = node.truth("count_include_pad")
    if any(each != 1 for each in moves.dilation):
        raise UnsupportedError("its dilations are not supported")
    shape: Shape = (*operand.shape[:2], *moves.output(lengths, rounds_up=rounds_up))
    padding = moves.before
    if not _fits_torch(moves):
        if rounds_up:
            raise UnsupportedError("it uses ceil_mode with uneven padding")
        if not counts_padding:
            return [_mean_of_inside(program, operand, moves, shape)]
        operand, padding = padded(program, operand, moves.pairs), [0] * len(lengths)
    options = (moves.kernel, moves.stride, padding, rounds_up, counts_padding)
    op = f"avg_pool{len(lengths)}d.default"
    return [program.emit(op, operand, *options, shape=shape, dtype=operand.dtype)]


def _mean_of_inside(program: Lowering, operand: Operand, moves: Window, shape: Shape) -> Operand:
    """Mean of the entries of each window that lie within the image: two sums, divided."""
    op = f"avg_pool{len(moves.kernel)}d.default"
    ones = program.like("ones_like.default", operand)
    sums = [
        program.emit(
            op, padded(program, each, moves.pairs), moves.kernel, moves.stride, shape=shape, dtype=operand.dtype
        )
        for each in (operand, ones)
    ]
    return program.like("div.Tensor", *sums)


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, program: Lowering) -> list[Operand]:
    """Mean or largest entry of each channel."""
    operand, lengths = node.operand(0), spatial_lengths(node.operand(0))
    shape: Shape = (*operand.shape[:2], *[1] * len(lengths))
    axes = list(range(2, operand.rank))
    op = "mean.dim" if node.op == "GlobalAveragePool" else "amax.default"
    return [program.emit(op, operand, axes, True, shape=shape, dtype=operand.dtype)]


@lowers("Col2Im")
def columns_to_image(node: Node, program: Lowering) -> list[Operand]:
    """Sum of overlapping blocks at their places in an image."""
    operand, lengths, kernel = node.operand(0), plain_integers(node, 1), plain_integers(node, 2)
    if operand.rank != 3 or len(lengths) != 2 or len(kernel) != 2 or isinstance(operand.shape[1], Length):
        raise UnsupportedError("its blocks are not those of an image")
    if any(not 1 <= each <= _MAX_SETTING for each in (*lengths, *kernel)):
        raise UnsupportedError("its lengths are not valid")
    moves = window(node, lengths, kernel)
    channels, remainder = divmod(operand.shape[1], math.prod(kernel))
    if not moves.is_symmetric or remainder or operand.shape[2] != math.prod(moves.output(lengths)):
        raise UnsupportedError("its blocks do not match its image")
    shape: Shape = (operand.shape[0], channels, *lengths)
    options = (lengths, kernel, moves.dilation, moves.before, moves.stride)
    return [program.emit("col2im.default", operand, *options, shape=shape, dtype=operand.dtype)]
