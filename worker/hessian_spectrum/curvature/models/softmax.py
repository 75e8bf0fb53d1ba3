"""Softmax whose derivatives take few passes over memory."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten


def softmax(x: Tensor, dim: int) -> Tensor:
    """Return exp(x) / sum(exp(x)), with the sum over one axis.

    The values are those of torch.softmax, whose tangent and second derivatives (PyTorch 2.13) take twice as many passes
    over memory. Since the Jacobian is symmetric, one kernel computes both the tangent and the gradient here. Forward
    mode nested in forward mode is wrong, as for every custom autograd function; products do not use it.

    Args:
        x: Numbers of any shape.
        dim: Axis along which the results sum to 1.
    """
    result: Tensor = _Softmax.apply(x, dim)  # type: ignore[no-untyped-call]
    return result


class _Softmax(Function):
    """x -> p; its derivative J = diag(p) - p p^T is symmetric."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return x.softmax(dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1] - inputs[0].ndim if inputs[1] >= 0 else inputs[1]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _applied(gradient, ctx.saved_tensors[0], ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return _applied(dx, ctx.saved_tensors[0], ctx.dim)


class _Derivative(Function):
    """v, p -> J v = p (v - sum(p v)).

    d(J v) = t - p sum(t) with t = p dv + (v - sum(p v)) dp, since sum(dp) = 0 where p stays a softmax.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, p: Tensor, dim: int) -> Tensor:
        result: Tensor = aten._softmax_backward_data(v, p, dim, v.dtype)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        v, p, ctx.dim = inputs
        ctx.save_for_backward(v, p)
        ctx.save_for_forward(v, p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        v, p = ctx.saved_tensors
        of_p = gradient * _centred(v, p, ctx.dim) - v * (gradient * p).sum(ctx.dim, keepdim=True)
        return _applied(gradient, p, ctx.dim), of_p, None

    @staticmethod
    def jvp(ctx: Any, dv: Tensor, dp: Tensor, _: None) -> Tensor:
        v, p = cast(tuple[Tensor, Tensor], ctx.saved_tensors)
        total = dp * _centred(v, p, ctx.dim) + dv * p
        return total - p * total.sum(ctx.dim, keepdim=True)


def _applied(v: Tensor, p: Tensor, dim: int) -> Tensor:
    result: Tensor = _Derivative.apply(v, p, dim)  # type: ignore[no-untyped-call]
    return result


def _centred(v: Tensor, p: Tensor, dim: int) -> Tensor:
    return v - (p * v).sum(dim, keepdim=True)
