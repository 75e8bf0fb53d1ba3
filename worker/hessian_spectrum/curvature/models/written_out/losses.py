"""Losses that are part of a program."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_MEAN, _SUM = 1, 2


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


def multi_margin_loss(
    x: Tensor, target: Tensor, p: float = 1, margin: float = 1, weight: Tensor | None = None, reduction: int = _MEAN
) -> Tensor:
    """Return sum_{i != y} w_y max(0, margin - x_y + x_i)^p / K of each sample with label y, reduced."""
    labels = target.unsqueeze(-1)
    terms = (margin - x.gather(-1, labels) + x).clamp_min(0) ** p
    if weight is not None:
        terms = terms * weight[labels]
    others = torch.arange(x.shape[-1], device=x.device) != labels
    return _reduced(torch.where(others, terms, 0).sum(-1) / x.shape[-1], reduction)


def multilabel_margin_loss(x: Tensor, target: Tensor, reduction: int = _MEAN) -> Tensor:
    """Return sum_{y, i} max(0, 1 - x_y + x_i) / K over labels y, listed until the first -1, and all others i."""
    is_label = (target < 0).cumsum(-1) == 0
    labels = target.clamp_min(0)
    is_among = torch.zeros_like(target).scatter_add(-1, labels, is_label.to(target.dtype)) > 0
    terms = (1 - x.gather(-1, labels).unsqueeze(-1) + x.unsqueeze(-2)).clamp_min(0)
    counted = is_label.unsqueeze(-1) & ~is_among.unsqueeze(-2)
    return _reduced(torch.where(counted, terms, 0).sum((-2, -1)) / x.shape[-1], reduction)


OPERATORS: dict[str, Callable[..., Any]] = {
    "mse_loss": mse_loss,
    "huber_loss": huber_loss,
    "smooth_l1_loss": smooth_l1_loss,
    "soft_margin_loss": soft_margin_loss,
    "multi_margin_loss": multi_margin_loss,
    "multilabel_margin_loss": multilabel_margin_loss,
}
