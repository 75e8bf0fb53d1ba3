"""Nonlinearities by name."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.quadrature.errors import InvalidProblemError

Activation = Callable[[Tensor], Tensor]

DEFAULT_NEGATIVE_SLOPE = 0.01  # PyTorch's

ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "leaky-relu": partial(F.leaky_relu, negative_slope=DEFAULT_NEGATIVE_SLOPE),
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": lambda x: x * torch.sigmoid(x),  # F.silu's backward has no forward derivative (PyTorch 2.13)
    "sigmoid": torch.sigmoid,
}


def activation_named(name: str, negative_slope: float = DEFAULT_NEGATIVE_SLOPE) -> Activation:
    """The elementwise map of that name; gelu is the exact one, with the error function.

    Args:
        negative_slope: Of leaky-relu below and at 0, any number; the others do not use it.

    Raises:
        InvalidProblemError: On an unknown name or a slope that is not finite.
    """
    if name not in ACTIVATIONS:
        raise InvalidProblemError(f"activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    if not abs(negative_slope) < float("inf"):
        raise InvalidProblemError(f"the negative slope is {negative_slope}")
    return partial(F.leaky_relu, negative_slope=negative_slope) if name == "leaky-relu" else ACTIVATIONS[name]
