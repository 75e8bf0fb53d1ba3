"""Reading and writing at positions, by operators that have a rule for several vectors at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.written_out.activations import in_place


def lift_fresh(x: Tensor) -> Tensor:
    """Return a copy of a constant, which the graph may change in place."""
    return x.clone()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the entries of x at positions of its flat form."""
    return x.reshape(-1)[index]


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """Return x with entries at positions of its flat form replaced by those of the source, or increased by them."""
    return x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate).reshape(x.shape)


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Return x with the first entries of the source, in order, where the mask is true."""
    mask = mask.expand(x.shape)
    positions = (mask.reshape(-1).cumsum(0) - 1).clamp_min(0).reshape(x.shape)
    return torch.where(mask, source.reshape(-1)[positions], x)


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """Return the entries of x where the mask is true."""
    x, mask = torch.broadcast_tensors(x, mask)  # type: ignore[no-untyped-call]
    return x[mask]


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Return x with the slices at the indices replaced."""
    return x.index_copy(dim, index, source)


def scatter(x: Tensor, dim: int, index: Tensor, source: Any) -> Tensor:
    """Return x with the entries at the indices along an axis replaced by those of an array or by a number."""
    return x.scatter(dim, index, source)


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return the windows along an axis, whose entries lie along a new last axis."""
    dimension %= x.ndim
    starts = torch.arange(0, x.shape[dimension] - size + 1, step, device=x.device)
    positions = starts.unsqueeze(-1) + torch.arange(size, device=x.device)
    entries = x.index_select(dimension, positions.reshape(-1))
    windows = entries.reshape(*x.shape[:dimension], len(starts), size, *x.shape[dimension + 1 :])
    return windows.movedim(dimension + 1, -1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Return x (n, channels, ...) with the channels sorted by their positions within groups."""
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    return grouped.transpose(1, 2).reshape(x.shape)


def split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    """Return the pieces of these lengths along an axis."""
    return torch.split(x, list(sizes), dim)


OPERATORS: dict[str, Callable[..., Any]] = {
    "lift_fresh": lift_fresh,
    "lift_fresh_copy": lift_fresh,
    "take": take,
    "put": put,
    "masked_scatter": masked_scatter,
    "masked_scatter_": in_place(masked_scatter),
    "masked_select": masked_select,
    "index_copy_": in_place(index_copy),
    "scatter_": in_place(scatter),
    "unfold": unfold,
    "unfold_copy": unfold,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "unsafe_split_with_sizes": split_with_sizes,
}
