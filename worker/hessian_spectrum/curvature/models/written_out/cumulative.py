"""Sums over all entries up to each one, without PyTorch's detour through logarithms of gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Return log sum_{j <= i} exp(x_j) along an axis, by sums over twice as many entries in each step.

    PyTorch differentiates through log |gradient|, whose rounding makes second derivatives wrong by thousands of
    epsilons.

    Args:
        x: The entries.
        dim: The axis.

    Returns:
        The logarithms, in the shape of x.

    References:
        Hillis & Steele, Comm. ACM 29 (1986) 1170-1183.
    """
    if x.ndim == 0:
        return x
    count, distance = x.shape[dim], 1
    while distance < count:
        first, rest = x.narrow(dim, 0, distance), x.narrow(dim, distance, count - distance)
        before = x.narrow(dim, 0, count - distance)
        x = torch.cat([first, torch.stack([rest, before]).logsumexp(0)], dim)
        distance *= 2
    return x


OPERATORS: dict[str, Callable[..., Any]] = {"logcumsumexp": logcumsumexp}
