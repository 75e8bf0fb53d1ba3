"""Layer norm whose derivatives take few passes over memory."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return x, normalised over its last axes, times the weight, plus the bias.

    The values are those of torch.nn.functional.layer_norm, whose second derivatives (PyTorch 2.13) take twice as many
    passes over memory, because its formulas for the tangent and for the tangent of the gradient share no terms. Forward
    mode nested in forward mode is wrong, as for every custom autograd function; products do not use it.

    Args:
        x: Numbers (..., *shape).
        shape: Lengths of the axes that are normalised together.
        weight: Factors of this shape; None: 1.
        bias: Summands of this shape; None: 0.
        eps: What is added to the variance.
    """
    if weight is None and bias is not None:
        return layer_norm(x, shape, None, None, eps) + bias
    result: Tensor = _LayerNorm.apply(x, weight, bias, len(shape), eps)[0]  # type: ignore[no-untyped-call]
    return result


class _LayerNorm(Function):
    """x, w, b -> w z + b, z and r, with z = r (x - m), r = 1 / sqrt(v + epsilon), mean m and variance v; m, too.

    dz = P dx of `_Pullback` and dr = -r^2 mean(z dx).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, num_axes: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = x.shape[-num_axes:]
        z, m, r = aten.native_layer_norm(x, shape, None, None, eps)
        return aten.native_layer_norm(x, shape, weight, bias, eps)[0], z, r, m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.num_axes, _ = inputs
        _, z, r, m = output
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(m)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, r, weight, x, m)
        ctx.save_for_forward(z, r, weight, x, m)

    @staticmethod
    def backward(ctx: Any, of_y: Tensor | None, of_z: Tensor | None, of_r: Tensor | None, _: None) -> Any:
        z, r, weight, x, m = ctx.saved_tensors
        parts, of_weight, of_bias = [], None, None
        if of_y is not None and weight is not None:
            of_x, of_weight, of_bias = _pullback(of_y, z, r, weight, x, m, ctx.num_axes, with_sums=True)
            parts.append(of_x)
        elif of_y is not None:
            parts.append(_pullback(of_y, z, r, None, x, m, ctx.num_axes))
        if of_z is not None:
            parts.append(_pullback(of_z, z, r, None, x, m, ctx.num_axes))
        if of_r is not None:
            parts.append(-of_r * r.square() / math.prod(x.shape[-ctx.num_axes :]) * z)
        total = sum(parts[1:], parts[0]) if parts else None
        return total, of_weight, of_bias if ctx.has_bias else None, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None, *_: None) -> Any:
        z, r, weight, x, m = ctx.saved_tensors
        dz = torch.zeros_like(z) if dx is None else _pullback(dx, z, r, None, x, m, ctx.num_axes)
        dr = torch.zeros_like(r) if dx is None else -r.square() * (z * dx).mean(_last(ctx.num_axes), keepdim=True)
        # sums of products only: each is one pass over memory
        dy = dz if weight is None else dz * weight
        dy = dy if db is None else db + dy
        return dy if dw is None else dy + z * dw, dz, dr, None


class _Pullback(Function):
    """v, z, r, w -> P (w v) and, with sums over rows, sum(z v) and sum(v), where P u = r (u - mean(u) - z mean(z u)).

    The kernel reads z as x and m, which have no derivatives here.
    d(P u) = P du + (dr / r) P u - r (dz mean(z u) + z mean(u dz)).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, z: Tensor, r: Tensor, weight: Tensor | None, x: Tensor, m: Tensor, num_axes: int, with_sums: bool
    ) -> Any:
        mask = [True, with_sums, with_sums]
        parts = aten.native_layer_norm_backward(v, x, x.shape[-num_axes:], m, r, weight, weight, mask)
        return parts if with_sums else parts[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.num_axes, ctx.with_sums = inputs
        result = output[0] if ctx.with_sums else output
        ctx.save_for_backward(*tensors, result)
        ctx.save_for_forward(*tensors, result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_weight_sum: Tensor | None = None, of_sum: Tensor | None = None) -> Any:
        v, z, r, weight, x, m, result = ctx.saved_tensors
        axes = _last(ctx.num_axes)
        u = v if weight is None else v * weight
        of_u = _pullback(gradient, z, r, None, x, m, ctx.num_axes)
        of_v, of_weight = (of_u, None) if weight is None else (of_u * weight, (of_u * v).sum_to_size(weight.shape))
        of_z = -r * (gradient * (z * u).mean(axes, keepdim=True) + u * (gradient * z).mean(axes, keepdim=True))
        of_r = (gradient * result).sum(axes, keepdim=True) / r
        if of_weight_sum is not None:
            of_v, of_z = of_v + z * of_weight_sum, of_z + v * of_weight_sum
        if of_sum is not None:
            of_v = of_v + of_sum
        return of_v, of_z, of_r, of_weight, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, dv: Tensor, dz: Tensor, dr: Tensor, dw: Tensor | None, *_: Any) -> Any:
        v, z, r, weight, x, m, result = ctx.saved_tensors
        axes = _last(ctx.num_axes)
        u = v if weight is None else v * weight
        parts = _pullback(dv, z, r, weight, x, m, ctx.num_axes, with_sums=ctx.with_sums)
        total = parts[0] if ctx.with_sums else parts
        if dw is not None:
            total = total + _pullback(v, z, r, dw, x, m, ctx.num_axes)
        # sums of products only: each is one pass over memory
        total = total + result * (dr / r)
        total = total + dz * (-r * (z * u).mean(axes, keepdim=True))
        total = total + (-r * z) * (u * dz).mean(axes, keepdim=True)
        return (total, parts[1] + (v * dz).sum_to_size(weight.shape), parts[2]) if ctx.with_sums else total


def _pullback(*arguments: Any, with_sums: bool = False) -> Any:
    return _Pullback.apply(*arguments, with_sums)  # type: ignore[no-untyped-call]


def _last(num_axes: int) -> list[int]:
    return list(range(-num_axes, 0))
