"""Operators whose PyTorch versions trust their arguments and may read memory that is not theirs.

`empty` returns what was in memory before, which may be numbers of other jobs, `_reshape_alias` takes any strides, and
normalisation in decomposed graphs takes statistics of any length.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def empty(
    size: Sequence[int], *_: Any, dtype: torch.dtype | None = None, device: torch.device | None = None, **__: Any
) -> Tensor:
    """Return zeros of this size, without gaps between them whatever the strides that are asked for."""
    return torch.zeros(list(size), dtype=dtype, device=device)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None, memory_format: Any = None, **_: Any) -> Tensor:
    """Return zeros of the shape of x, and in its order in memory by default."""
    result: Tensor = torch.ops.aten.zeros_like.default(x, dtype=dtype, memory_format=memory_format)
    return result


def new_empty(x: Tensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Return zeros of this size, of the type of x by default."""
    return x.new_zeros(list(size), dtype=dtype)


def reshape_alias(x: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return x in another shape; its strides follow from that."""
    return x.reshape(list(size))


def repeat_interleave(x: Tensor, *arguments: Any, output_size: int | None = None, **options: Any) -> Tensor:
    """Return the entries of x, each repeated; the size of the result follows from that."""
    return torch.repeat_interleave(x, *arguments, **options)


def unsafe_index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Return the entries of x at the indices, which are checked."""
    result: Tensor = torch.ops.aten.index.Tensor(x, indices)
    return result


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x normalised by stored statistics, and two empty arrays in place of the statistics of training."""
    return _normalised(x, weight, bias, running_mean, running_var, eps)


def native_batch_norm_without_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x normalised by stored statistics, and two empty arrays in place of the statistics of training."""
    return _normalised(x, weight, bias, running_mean, running_var, eps)


def _normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    nothing = x.new_zeros(0)
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), nothing, nothing


OPERATORS: dict[str, Callable[..., Any]] = {
    "empty": empty,
    "empty_strided": empty,
    "empty_like": empty_like,
    "new_empty": new_empty,
    "_reshape_alias": reshape_alias,
    "repeat_interleave": repeat_interleave,
    "_unsafe_index": unsafe_index,
    "native_batch_norm": native_batch_norm,
    "_native_batch_norm_legit_no_training": native_batch_norm_without_training,
}
