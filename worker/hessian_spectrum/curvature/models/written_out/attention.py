"""Attention, and its softmax."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.softmax import softmax


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(q k^T scale + mask) v; rows whose positions are all masked give 0."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, dim=-3) for each in (key, value))
    scores = (query * scale) @ key.transpose(-2, -1)
    mask = attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is None:
        return softmax(scores, -1) @ value
    if mask.dtype == torch.bool:
        visible = mask
        scores = scores.masked_fill(~mask, -math.inf)
    else:
        visible = mask > -math.inf
        scores = scores + mask
    hidden = ~visible.any(dim=-1, keepdim=True)
    # a row without a visible position would be 0/0: its scores are replaced before the softmax, its weights after it
    weights = softmax(scores.masked_fill(hidden, 0.0), -1).masked_fill(hidden, 0.0)
    return weights @ value


def softmax_of_type(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the softmax along an axis, computed in a type of its own if one is given."""
    return softmax(x if dtype is None else x.to(dtype), dim)


def softmax_kernel(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Return the softmax along an axis; the precision is the request's."""
    return softmax(x, dim)


OPERATORS: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "softmax": softmax_of_type,
    "special_softmax": softmax_of_type,
    "_softmax": softmax_kernel,
}
