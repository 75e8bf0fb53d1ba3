"""Elementwise nonlinearities as functions of tensors; `planning.activations` lists them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hessian_spectrum.planning.activations import ACTIVATIONS, DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.quadrature.errors import InvalidProblemError

Activation = Callable[[Tensor], Tensor]


def activation_named(name: str, negative_slope: float = DEFAULT_NEGATIVE_SLOPE) -> Activation:
    """The elementwise map of that name; gelu is the exact one, with the error function.

    Args:
        name: One of `ACTIVATIONS`.
        negative_slope: Of leaky-relu below and at 0, any number; the others do not use it.

    Raises:
        InvalidProblemError: On an unknown name or a slope that is not finite.
    """
    if name not in ACTIVATIONS:
        raise InvalidProblemError(f"activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    if not abs(negative_slope) < float("inf"):
        raise InvalidProblemError(f"the negative slope is {negative_slope}")
    activation = ACTIVATIONS[name]
    if activation.has_slope:
        return lambda x: activation.function(torch, x, negative_slope)
    return partial(activation.function, torch)
