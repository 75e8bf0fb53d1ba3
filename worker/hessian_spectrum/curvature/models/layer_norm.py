"""Layer norm with short derivatives."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten

_MASK = [True, False, False]
"""Of the kernel's three results the first is wanted: those of weight and bias do not exist."""


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return x, normalised over its last axes, times the weight, plus the bias.

    As torch.nn.functional.layer_norm, whose second derivatives (PyTorch 2.13) take one and a half times as many passes
    over memory: its formulas for the tangent and for the tangent of the gradient share nothing. Forward mode within
    forward mode is wrong, as for every function with a rule of its own; products do not use it.

    Args:
        x: Numbers (..., *shape).
        shape: Lengths of the axes that are normalised together.
        weight: Factors of this shape; None: 1.
        bias: Summands of this shape; None: 0.
        eps: What is added to the variance.
    """
    z: Tensor = _Normalised.apply(x, len(shape), eps)[0]  # type: ignore[no-untyped-call]
    scaled = z if weight is None else z * weight
    return scaled if bias is None else scaled + bias


class _Normalised(Function):
    """x -> z = r (x - m) and r = 1 / sqrt(v + epsilon), with mean m and variance v; m is returned, too.

    dz = P dx of `_Projected` and dr = -r^2 mean(z dx).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, num_axes: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        z, m, r = aten.native_layer_norm(x, x.shape[-num_axes:], None, None, eps)
        return z, r, m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        (x, ctx.num_axes, _), (z, r, m) = inputs, output
        ctx.mark_non_differentiable(m)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z, r, m)
        ctx.save_for_forward(x, z, r, m)

    @staticmethod
    def backward(ctx: Any, of_z: Tensor | None, of_r: Tensor | None, _: None) -> Any:
        x, z, r, m = ctx.saved_tensors
        result = None if of_z is None else _projected(of_z, z, r, x, m, ctx.num_axes)
        if of_r is not None:
            part = -of_r * r.square() / math.prod(x.shape[-ctx.num_axes :]) * z
            result = part if result is None else result + part
        return result, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Any:
        x, z, r, m = ctx.saved_tensors
        dr = -r.square() * (z * dx).mean(_last(ctx.num_axes), keepdim=True)
        return _projected(dx, z, r, x, m, ctx.num_axes), dr, None


class _Projected(Function):
    """v, z, r -> P v = r (v - mean(v) - z mean(z v)); the kernel reads z as x and m, which have no derivatives here.

    dP v = P dv + (dr / r) P v - r (dz mean(z v) + z mean(v dz)).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, z: Tensor, r: Tensor, x: Tensor, m: Tensor, num_axes: int) -> Tensor:
        result: Tensor = aten.native_layer_norm_backward(v, x, x.shape[-num_axes:], m, r, None, None, _MASK)[0]
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.num_axes = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        v, z, r, x, m, projected = ctx.saved_tensors
        axes = _last(ctx.num_axes)
        of_v = _projected(gradient, z, r, x, m, ctx.num_axes)
        of_z = -r * (gradient * (z * v).mean(axes, keepdim=True) + v * (gradient * z).mean(axes, keepdim=True))
        of_r = (gradient * projected).sum(axes, keepdim=True) / r
        return of_v, of_z, of_r, None, None, None

    @staticmethod
    def jvp(ctx: Any, dv: Tensor, dz: Tensor, dr: Tensor, *_: Any) -> Tensor:
        v, z, r, x, m, projected = cast(tuple[Tensor, ...], ctx.saved_tensors)
        axes = _last(ctx.num_axes)
        # sums of products only: each is one pass over memory
        total = _projected(dv, z, r, x, m, ctx.num_axes) + projected * (dr / r)
        total = total + dz * (-r * (z * v).mean(axes, keepdim=True))
        return total + (-r * z) * (v * dz).mean(axes, keepdim=True)


def _projected(*arguments: Any) -> Tensor:
    result: Tensor = _Projected.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _last(num_axes: int) -> list[int]:
    return list(range(-num_axes, 0))
