"""Values of images at other positions: grids, interpolation between pixels, nearest pixels."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_BILINEAR, _NEAREST, _BICUBIC = 0, 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2

_CUBIC = -0.75
"""Free coefficient of the cubic kernel, as in PyTorch."""


def affine_grid_generator(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Return theta (x, y, ..., 1) for the positions of all pixels of an image of this size, in -1 .. 1."""
    axes = []
    for length in size[2:]:
        positions = torch.linspace(-1, 1, length, dtype=theta.dtype, device=theta.device)
        if length == 1:
            positions = torch.zeros_like(positions)
        axes.append(positions if align_corners else positions * (length - 1) / length)
    mesh = torch.meshgrid(axes, indexing="ij")
    points = torch.stack([*reversed(mesh), torch.ones_like(mesh[0])], -1)
    flat = points.reshape(-1, points.shape[-1]) @ theta.mT
    return flat.reshape(theta.shape[0], *size[2:], theta.shape[1])


def grid_sampler(image: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """Return the values of images at positions between their pixels.

    Args:
        image: Images (n, channels, height, width), or with one more axis.
        grid: Positions (n, ..., 2) as x, y in -1 .. 1, or (n, ..., 3).
        mode: 0 for linear interpolation, 1 for the nearest pixel, 2 for cubic interpolation.
        padding: What lies outside: 0 for zeros, 1 for the border, 2 for reflections.
        align_corners: Whether -1 and 1 are centres of pixels rather than their edges.

    Returns:
        The values (n, channels, ...).
    """
    lengths = image.shape[2:]
    positions = []
    for coordinate, length in zip(grid.flip(-1).unbind(-1), lengths, strict=True):
        position = (coordinate + 1) / 2 * (length - 1) if align_corners else ((coordinate + 1) * length - 1) / 2
        is_padded = padding != _ZEROS and mode != _BICUBIC
        positions.append(_inside(position, length, padding, align_corners) if is_padded else position)
    stencils = [_stencil(position, mode) for position in positions]
    total: Tensor | None = None
    for corner in product(*stencils):
        weight = corner[0][1]
        for _, factor in corner[1:]:
            weight = weight * factor
        indices = [index for index, _ in corner]
        if padding != _ZEROS:
            pairs = zip(indices, lengths, strict=True)
            indices = [_inside(index, length, padding, align_corners) for index, length in pairs]
        term = _pixels(image, indices) * weight.unsqueeze(1)
        total = term if total is None else total + term
    assert total is not None
    return total


def _stencil(position: Tensor, mode: int) -> list[tuple[Tensor, Tensor]]:
    """Pixels near a position along one axis, with their weights; the pixels are constants."""
    if mode == _NEAREST:
        nearest = position.detach().round()
        return [(nearest, torch.ones_like(nearest))]
    lower = position.detach().floor()
    t = position - lower
    if mode == _BILINEAR:
        return [(lower, 1 - t), (lower + 1, t)]
    near, far = _near_weight, _far_weight
    weights = [far(t + 1), near(t), near(1 - t), far(2 - t)]
    return [(lower + offset, weight) for offset, weight in zip(range(-1, 3), weights, strict=True)]


def _near_weight(t: Tensor) -> Tensor:
    """Cubic kernel for distances up to 1."""
    return ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1


def _far_weight(t: Tensor) -> Tensor:
    """Cubic kernel for distances from 1 to 2."""
    return ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC


def _inside(position: Tensor, length: int, padding: int, align_corners: bool) -> Tensor:
    """Move positions along one axis into the image."""
    if padding == _REFLECTION:
        low, span = (0.0, length - 1.0) if align_corners else (-0.5, float(length))
        if span == 0:
            return torch.zeros_like(position)
        distance = (position - low).abs()
        num_flips = (distance.detach() / span).floor()
        rest = distance - num_flips * span
        position = torch.where(num_flips % 2 == 0, rest, span - rest) + low
    return position.clamp(0, length - 1)


def _pixels(image: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """Pixels (n, channels, ...) at integer positions (n, ...), and 0 outside the image."""
    flat = torch.zeros_like(indices[0], dtype=torch.int64)
    is_inside = torch.ones_like(flat, dtype=torch.bool)
    for index, length in zip(indices, image.shape[2:], strict=True):
        is_inside = is_inside & (index >= 0) & (index <= length - 1)
        flat = flat * length + index.clamp(0, length - 1).to(torch.int64)
    positions = flat.reshape(len(flat), 1, -1).expand(-1, image.shape[1], -1)
    values = image.flatten(2).gather(2, positions).reshape(*image.shape[:2], *flat.shape[1:])
    return torch.where(is_inside.unsqueeze(1), values, 0)


def upsample_nearest_exact(x: Tensor, size: Sequence[int] | None, *scales: Any) -> Tensor:
    """Return images of another size, each pixel with the value of the pixel whose centre is nearest.

    Args:
        x: Images (n, channels, ...).
        size: New lengths of the axes; None if they follow from the factors.
        *scales: The factors, one list or one number or None for each axis.

    Returns:
        The images.
    """
    factors = list(scales[0]) if scales and isinstance(scales[0], (list, tuple)) else list(scales)
    factors += [None] * (x.ndim - 2 - len(factors))
    lengths = size if size is not None else [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
    for axis, (length, factor) in enumerate(zip(lengths, factors, strict=True), start=2):
        ratio = x.shape[axis] / length if factor is None else 1 / factor
        centres = (torch.arange(length, dtype=torch.float64, device=x.device) + 0.5) * ratio
        x = x.index_select(axis, centres.floor().clamp(0, x.shape[axis] - 1).to(torch.int64))
    return x


def _adaptive_average(num_axes: int) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """The mean over each of `size` regions; PyTorch's own mean over the whole image changes strides in place."""
    own = getattr(F, f"adaptive_avg_pool{num_axes}d")

    def run(x: Tensor, size: Sequence[int]) -> Tensor:
        if all(length == 1 for length in size):
            return x.mean(tuple(range(-num_axes, 0)), keepdim=True)
        result: Tensor = own(x, size)
        return result

    return run


def max_unpool2d(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Return images of a size that are 0 except for the values at indices into their flat form."""
    flat = x.new_zeros(*x.shape[:-2], size[-2] * size[-1]).scatter(-1, indices.flatten(-2), x.flatten(-2))
    return flat.reshape(*x.shape[:-2], *size[-2:])


OPERATORS: dict[str, Callable[..., Any]] = {
    "affine_grid_generator": affine_grid_generator,
    "grid_sampler": grid_sampler,
    "grid_sampler_2d": grid_sampler,
    "grid_sampler_3d": grid_sampler,
    "adaptive_avg_pool1d": _adaptive_average(1),
    "adaptive_avg_pool2d": _adaptive_average(2),
    "adaptive_avg_pool3d": _adaptive_average(3),
    "_adaptive_avg_pool2d": _adaptive_average(2),
    "_adaptive_avg_pool3d": _adaptive_average(3),
    "max_unpool2d": max_unpool2d,
    "_upsample_nearest_exact1d": upsample_nearest_exact,
    "_upsample_nearest_exact2d": upsample_nearest_exact,
    "_upsample_nearest_exact3d": upsample_nearest_exact,
}
