"""Cross-entropy of class labels or tokens."""

import torch
from torch import Tensor

from curvature.losses.base import IGNORED, Loss, check_labels, num_valid_labels


class CrossEntropy(Loss):
    """One term per valid target y with logits z: log sum_k exp(z_k) - z_y, in nats; label -100 is ignored."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the terms for logits (*samples, K) and labels (*samples)."""
        valid = targets != IGNORED
        picked = outputs.gather(-1, torch.where(valid, targets, 0).unsqueeze(-1)).squeeze(-1)
        terms = outputs.logsumexp(dim=-1) - picked
        return (terms * valid.to(terms.dtype)).sum()

    def num_terms(self, targets: Tensor) -> int:
        """Labels that are not ignored."""
        return num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Targets are labels (*sample_shape,) in 0 .. num_outputs - 1, or -100."""
        check_labels(targets, sample_shape, num_outputs)
