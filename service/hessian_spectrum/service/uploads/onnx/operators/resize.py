"""Resampling of images."""

import math
from typing import cast

from hessian_spectrum.service.uploads.onnx.lengths import Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.convolutions import spatial_lengths
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import dimensions, picked, values_of

_NAMES = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}
_CENTRED = ("half_pixel", "pytorch_half_pixel")
_ALIGNED = "align_corners"
_CUBIC_COEFFICIENT = -0.75
_LONGEST = 2**16


@lowers("Resize")
def resize(node: Node, program: Lowering) -> list[Operand]:
    """An image of another size, by the nearest pixel or by interpolation."""
    operand = node.operand(0)
    node.ignore_inputs(1)  # a region, which other coordinates have
    lengths = spatial_lengths(operand)
    sizes, scales = _target(node, operand, lengths)
    shape: Shape = (*operand.shape[:2], *sizes)
    mode, coordinates = node.text("mode", "nearest"), node.text("coordinate_transformation_mode", "half_pixel")
    node.ignore("extrapolation_value", *(() if mode == "cubic" else ("exclude_outside", "cubic_coeff_a")))
    node.refuse("antialias", 0)
    node.refuse("keep_aspect_ratio_policy", "stretch")
    rounding = node.text("nearest_mode", "round_prefer_floor")
    if mode == "nearest":
        return [_nearest(program, operand, sizes, scales, coordinates, rounding)]
    is_aligned = coordinates == _ALIGNED
    if coordinates == "pytorch_half_pixel" and any(size == 1 != was for size, was in zip(sizes, lengths, strict=True)):
        raise UnsupportedError("an axis shrinks to one entry, for which PyTorch and ONNX differ")
    if not is_aligned and coordinates not in _CENTRED:
        raise UnsupportedError(f"its coordinates {coordinates:.32} are not supported")
    exact = all(math.isclose(size, length * scale) for size, length, scale in zip(sizes, lengths, scales, strict=True))
    if is_aligned and not exact:
        raise UnsupportedError("it aligns corners at a scale that gives a fractional number of entries: specify sizes")
    if mode == "linear":
        op = f"upsample_{_NAMES[len(sizes)]}.default"
    elif mode == "cubic" and len(sizes) == 2:
        node.refuse("exclude_outside", 0)
        if node.real("cubic_coeff_a", _CUBIC_COEFFICIENT) != _CUBIC_COEFFICIENT:
            raise UnsupportedError("its cubic_coeff_a is not supported")
        op = "upsample_bicubic2d.default"
    else:
        raise UnsupportedError(f"its mode {mode:.32} is not supported for this input")
    return [program.emit(op, operand, sizes, is_aligned, *scales, shape=shape, dtype=operand.dtype)]


def _target(node: Node, operand: Operand, lengths: list[int]) -> tuple[list[int], list[float]]:
    """Read lengths of the result, and the scales that coordinates are computed with."""
    given = node.integers("axes")
    if given is not None and [axis % operand.rank for axis in given] != list(range(2, operand.rank)):
        raise UnsupportedError("it resizes other axes than those of the image")
    skipped = 2 if given is None else 0
    scales = values_of(node, 2).ravel().tolist() if node.optional(2) is not None else []
    if scales:
        if len(scales) != skipped + len(lengths) or any(each != 1 for each in scales[:skipped]):
            raise UnsupportedError("it resizes other axes than those of the image")
        numbers = [float(each) for each in scales[skipped:]]
        sizes = [int(length * scale) for length, scale in zip(lengths, numbers, strict=True)]
    else:
        wanted = dimensions(node, 3)
        if len(wanted) != skipped + len(lengths) or list(operand.shape[:skipped]) != wanted[:skipped]:
            raise UnsupportedError("it resizes other axes than those of the image")
        if any(isinstance(each, Length) for each in wanted[skipped:]):
            raise UnsupportedError("its sizes depend on the number of samples")
        sizes = cast("list[int]", wanted[skipped:])
        numbers = [size / length for size, length in zip(sizes, lengths, strict=True)]
    if any(not 1 <= size <= _LONGEST for size in sizes):
        raise UnsupportedError("its sizes are not valid")
    return sizes, numbers


def _nearest(
    program: Lowering, operand: Operand, sizes: list[int], scales: list[float], coordinates: str, rounding: str
) -> Operand:
    """Pick the nearest pixel along one axis after the other."""
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True), start=2):
        length = cast("int", operand.shape[axis])
        if size != length or scale != 1:
            positions = [
                min(max(_rounded(_coordinate(index, size, length, scale, coordinates), rounding), 0), length - 1)
                for index in range(size)
            ]
            operand = picked(program, operand, axis, positions)
    return operand


def _coordinate(index: int, size: int, length: int, scale: float, coordinates: str) -> float:
    match coordinates:
        case "asymmetric":
            return index / scale
        case "align_corners":
            return index * (length - 1) / (size - 1) if size > 1 else 0.0
        case "half_pixel":
            return (index + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (index + 0.5) / scale - 0.5 if size > 1 else 0.0
    raise UnsupportedError(f"its coordinates {coordinates:.32} are not supported")


def _rounded(position: float, rounding: str) -> int:
    lower = int(position // 1)
    fraction = position - lower
    match rounding:
        case "floor":
            return lower
        case "ceil":
            return lower + (fraction > 0)
        case "round_prefer_floor":
            return lower + (fraction > 0.5)
        case "round_prefer_ceil":
            return lower + (fraction >= 0.5)
    raise UnsupportedError(f"its nearest_mode {rounding:.32} is not supported")


_INTERPOLATIONS = {"linear": 0, "bilinear": 0, "nearest": 1, "cubic": 2, "bicubic": 2}
_BORDERS = {"zeros": 0, "border": 1, "reflection": 2}


@lowers("GridSample")
def grid_sample(node: Node, program: Lowering) -> list[Operand]:
    """Entries of an image at coordinates from -1 to 1 that come from data."""
    operand, grid = node.operand(0), node.operand(1)
    rank = len(spatial_lengths(operand))
    mode, border = node.text("mode", "linear"), node.text("padding_mode", "zeros")
    if mode not in _INTERPOLATIONS or border not in _BORDERS or rank == 1 or (mode.endswith("cubic") and rank != 2):
        raise UnsupportedError("its mode is not supported for this input")
    if grid.rank != operand.rank or grid.shape[0] != operand.shape[0] or grid.shape[-1] != rank:
        raise UnsupportedError("its grid does not match its input")
    shape: Shape = (*operand.shape[:2], *grid.shape[1:-1])
    options = (_INTERPOLATIONS[mode], _BORDERS[border], node.truth("align_corners"))
    return [program.emit("grid_sampler.default", operand, grid, *options, shape=shape, dtype=operand.dtype)]
