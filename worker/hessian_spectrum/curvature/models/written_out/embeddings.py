"""Embeddings, whose rows are parameters like all others, the row of the padding included.

PyTorch leaves that row out of gradients but not out of tangents. Here all derivatives are those of the values; a row
that must not be differentiated has to be a constant of the network.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_SUM, _MEAN, _MAX = 0, 1, 2


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """Return the rows of the weight (V, d) at the indices; the other arguments affect only gradients."""
    return F.embedding(indices, weight)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sums, means or maxima of rows of the weight (V, d), one for each bag of indices, and 0 for empty bags.

    Args:
        weight: Table of rows.
        indices: Indices of the rows (n,), bag after bag.
        offsets: Position at which each bag begins.
        scale_grad_by_freq: Ignored, as it affects only gradients.
        mode: 0 for sums, 1 for means, 2 for maxima.
        sparse: Ignored.
        per_sample_weights: Factor of each row (n,), for sums.
        include_last_offset: Whether the last offset is the end of the last bag.
        padding_idx: Index that counts for nothing; None if there is none.

    Returns:
        The bags (B, d), and three arrays that only PyTorch's own derivative reads and that are empty here.
    """
    starts = offsets[:-1] if include_last_offset else offsets
    positions = torch.arange(len(indices), device=indices.device)
    bags = torch.searchsorted(starts, positions, right=True) - 1
    if padding_idx is not None and padding_idx >= 0:
        counted = (indices != padding_idx).nonzero().squeeze(-1)
        bags, indices = bags[counted], indices[counted]
        per_sample_weights = None if per_sample_weights is None else per_sample_weights[counted]
    rows = F.embedding(indices, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    result = rows.new_zeros(len(starts), rows.shape[-1])
    if mode == _MAX:
        result = result.scatter_reduce(0, bags.unsqueeze(-1).expand_as(rows), rows, "amax", include_self=False)
    else:
        result = result.index_add(0, bags, rows)
    if mode == _MEAN:
        sizes = result.new_zeros(len(starts)).index_add(0, bags, torch.ones_like(bags, dtype=rows.dtype))
        result = result / sizes.clamp_min(1).unsqueeze(-1)
    nothing = offsets.new_zeros(0)
    return result, nothing, nothing, nothing


OPERATORS: dict[str, Callable[..., Any]] = {"embedding": embedding, "embedding_bag": embedding_bag}
