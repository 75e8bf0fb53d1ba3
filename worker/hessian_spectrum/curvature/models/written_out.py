"""Operators that PyTorch's kernels cannot differentiate twice, or whose derivatives differ between modes, written out.

Each function takes the arguments of the operator. PyTorch 2.13 on the CPU: fused attention has no second derivative,
several losses and activations have no forward mode, `weight_norm` has a wrong double backward, and norms change values
in place while they are differentiated, so that they cannot be recorded.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_MEAN, _SUM = 1, 2


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
        return scores.softmax(dim=-1) @ value
    if mask.dtype == torch.bool:
        visible = mask
        scores = scores.masked_fill(~mask, -math.inf)
    else:
        visible = mask > -math.inf
        scores = scores + mask
    hidden = ~visible.any(dim=-1, keepdim=True)
    # a row without a visible position would be 0/0; its scores are replaced before, its weights after the softmax
    weights = scores.masked_fill(hidden, 0.0).softmax(dim=-1).masked_fill(hidden, 0.0)
    return weights @ value


def hardsigmoid(x: Tensor) -> Tensor:
    """Return min(max(x + 3, 0), 6) / 6."""
    return F.relu6(x + 3) / 6


def hardswish(x: Tensor) -> Tensor:
    """Return x min(max(x + 3, 0), 6) / 6."""
    return x * (F.relu6(x + 3) / 6)


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x)."""
    return x * x.sigmoid()


def vector_norm(
    x: Tensor,
    order: float | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return (sum |x|^order)^(1/order), with derivative 0 where it is 0."""
    x = x if dtype is None else x.to(dtype)
    order = 2.0 if order is None else float(order)
    axes = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim) or list(range(x.ndim))
    if math.isinf(order):
        return x.abs().amax(axes, keepdim) if order > 0 else x.abs().amin(axes, keepdim)
    if order == 0:
        return (x != 0).to(x.dtype).sum(axes, keepdim)
    total = x.square().sum(axes, keepdim) if order == 2 else x.abs().pow(order).sum(axes, keepdim)
    is_zero = total == 0
    # the root has no derivative at 0: it is taken of 1 there
    return total.masked_fill(is_zero, 1.0).pow(1 / order).masked_fill(is_zero, 0.0)


def norm(x: Tensor, p: float | None = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Return the p-norm, as the older operator takes its arguments."""
    return vector_norm(x, p, dim, keepdim, dtype=dtype)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, with the norm over all axes but one, or over all for dim = -1."""
    axes = [axis for axis in range(v.ndim) if axis != dim]
    length = vector_norm(v, 2, axes, True) if dim != -1 else vector_norm(v)
    return v * (g / length)


def _reduced(terms: Tensor, reduction: int) -> Tensor:
    return terms.mean() if reduction == _MEAN else terms.sum() if reduction == _SUM else terms


def mse_loss(x: Tensor, target: Tensor, reduction: int = _MEAN) -> Tensor:
    """Return (x - y)^2, reduced."""
    return _reduced((x - target).square(), reduction)


def huber_loss(x: Tensor, target: Tensor, reduction: int = _MEAN, delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 where |d| <= delta and delta (|d| - delta / 2) elsewhere, reduced."""
    size = (x - target).abs()
    return _reduced(torch.where(size <= delta, size.square() / 2, delta * (size - delta / 2)), reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: int = _MEAN, beta: float = 1.0) -> Tensor:
    """Return d^2 / (2 beta) where |d| < beta and |d| - beta / 2 elsewhere, reduced."""
    size = (x - target).abs()
    if beta == 0:
        return _reduced(size, reduction)
    return _reduced(torch.where(size < beta, size.square() / (2 * beta), size - beta / 2), reduction)


def soft_margin_loss(x: Tensor, target: Tensor, reduction: int = _MEAN) -> Tensor:
    """Return log(1 + exp(-y x)), reduced."""
    return _reduced(F.softplus(-target * x), reduction)


def cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Return the distances between the rows of x (..., m, d) and y (..., n, d)."""
    return vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """Return the distances between the rows of x (n, d), each pair once."""
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return vector_norm(x[rows] - x[columns], p, -1)


def lift_fresh(x: Tensor) -> Tensor:
    """Return a copy of a constant, which the graph may change."""
    return x.clone()


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "aten.scaled_dot_product_attention": attention,
    "aten.hardsigmoid": hardsigmoid,
    "aten.hardswish": hardswish,
    "aten.linalg_vector_norm": vector_norm,
    "aten.norm": norm,
    "aten._weight_norm": weight_norm,
    "aten.mse_loss": mse_loss,
    "aten.huber_loss": huber_loss,
    "aten.smooth_l1_loss": smooth_l1_loss,
    "aten.soft_margin_loss": soft_margin_loss,
    "aten.cdist": cdist,
    "aten.pdist": pdist,
    "aten.lift_fresh": lift_fresh,
    "aten.lift_fresh_copy": lift_fresh,
}
"""Functions by the name of the operator that they replace."""
