"""Elementwise functions, some of them with their in-place forms."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def hardsigmoid(x: Tensor) -> Tensor:
    """Return min(max(x + 3, 0), 6) / 6."""
    return F.relu6(x + 3) / 6


def hardswish(x: Tensor) -> Tensor:
    """Return x min(max(x + 3, 0), 6) / 6."""
    return x * (F.relu6(x + 3) / 6)


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x)."""
    return x * x.sigmoid()


def mish(x: Tensor) -> Tensor:
    """Return x tanh(log(1 + exp(x)))."""
    return x * F.softplus(x).tanh()


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Return a sigmoid(b) of the two halves of x along an axis."""
    a, b = x.chunk(2, dim)
    return a * b.sigmoid()


def log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(sigmoid(x)) and exp(-|x|), both of them differentiable."""
    return F.logsigmoid(x), (-x.abs()).exp()


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: None = None
) -> Tensor:
    """Return x, multiplied by the mean of the two slopes where it is negative."""
    return F.leaky_relu(x, (lower + upper) / 2)


def floor_divide(x: Tensor, y: Any) -> Tensor:
    """Return the largest whole number below x / y, whose derivative is 0."""
    return torch.floor_divide(_constant(x), _constant(y))


def heaviside(x: Tensor, values: Tensor) -> Tensor:
    """Return 1 where x is positive, 0 where it is negative and the values where it is 0, with derivative 0."""
    return torch.heaviside(x.detach(), values.detach())


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Return x with a value where the mask is true."""
    return torch.where(mask, value.to(x.dtype), x) if isinstance(value, Tensor) else x.masked_fill(mask, value)


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the in-place form of a function, which writes the result into its first argument."""

    def write(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return target.copy_(function(target.clone(), *args, **kwargs))  # autograd keeps what the function reads

    return write


_WITH_IN_PLACE_FORM: dict[str, Callable[..., Tensor]] = {
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "silu": silu,
    "mish": mish,
    "masked_fill": masked_fill,
}

OPERATORS: dict[str, Callable[..., Any]] = {
    **_WITH_IN_PLACE_FORM,
    **{f"{name}_": in_place(function) for name, function in _WITH_IN_PLACE_FORM.items()},
    "glu": glu,
    "log_sigmoid_forward": log_sigmoid_forward,
    "rrelu": rrelu,
    "floor_divide": floor_divide,
    "heaviside": heaviside,
}
