"""Norms and distances, with derivative 0 where they are 0; layers that normalise by them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.curvature.models.layer_norm import layer_norm


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
    # the root has no derivative at 0: the root of 1 is taken there
    return total.masked_fill(is_zero, 1.0).pow(1 / order).masked_fill(is_zero, 0.0)


def norm(x: Tensor, p: float | None = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Return the p-norm, with the arguments of the older operator."""
    return vector_norm(x, p, dim, keepdim, dtype=dtype)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, with the norm over all axes but one, or over all for dim = -1."""
    axes = [axis for axis in range(v.ndim) if axis != dim]
    length = vector_norm(v, 2, axes, True) if dim != -1 else vector_norm(v)
    return v * (g / length)


def weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Return g v / |v| and |v|."""
    axes = [axis for axis in range(v.ndim) if axis != dim]
    return weight_norm(v, g, dim), vector_norm(v, 2, axes, True)


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer norm, the mean, and the inverse of the standard deviation, all of them differentiable."""
    axes = list(range(x.ndim - len(shape), x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return layer_norm(x, shape, weight, bias, eps), mean, (variance + eps).rsqrt()


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Return the group norm; PyTorch's forward mode views the input, which fails for other memory layouts."""
    return F.group_norm(x.contiguous(), num_groups, weight, bias, eps)


def native_group_norm(x: Tensor, *arguments: Any) -> Any:
    """Return the group norm, the mean, and the inverse of the standard deviation."""
    return torch.ops.aten.native_group_norm.default(x.contiguous(), *arguments)


def cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Return the distances between the rows of x (..., m, d) and y (..., n, d)."""
    return vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """Return the distances between the rows of x (n, d), each pair once."""
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return vector_norm(x[rows] - x[columns], p, -1)


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return layer_norm(x, shape, weight, bias, eps)


OPERATORS: dict[str, Callable[..., Any]] = {
    "linalg_vector_norm": vector_norm,
    "norm": norm,
    "_weight_norm": weight_norm,
    "_weight_norm_interface": weight_norm_interface,
    "layer_norm": _layer_norm,
    "native_layer_norm": native_layer_norm,
    "group_norm": group_norm,
    "native_group_norm": native_group_norm,
    "cdist": cdist,
    "pdist": pdist,
    "_cdist_forward": cdist,
    "_pdist_forward": pdist,
}
