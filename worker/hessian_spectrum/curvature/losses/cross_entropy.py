"""Cross-entropy of class labels or tokens."""

import torch
from torch import Tensor

from hessian_spectrum.curvature.losses.base import IGNORED, Loss, check_labels, num_valid_labels


class CrossEntropy(Loss):
    """One term per valid target y with logits z: log sum_k exp(z_k) - z_y, in nats; label -100 is ignored."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the terms for logits (*samples, K) and labels (*samples)."""
        valid = targets != IGNORED
        picked = outputs.gather(-1, torch.where(valid, targets, 0).unsqueeze(-1)).squeeze(-1)
        terms = outputs.logsumexp(dim=-1) - picked
        return (terms * valid.to(terms.dtype)).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """softmax(z) - e_y for each valid target, else 0."""
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        picked = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        return _masked(outputs.softmax(dim=-1) - picked, targets)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """(diag(p) - p p^T) u with p = softmax(z) for each valid target, else 0."""
        probabilities = _masked(outputs.softmax(dim=-1), targets)
        weighted = probabilities * direction
        return weighted - probabilities * weighted.sum(dim=-1, keepdim=True)

    def num_terms(self, targets: Tensor) -> int:
        """Labels that are not ignored."""
        return num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Targets are labels (*sample_shape,) in 0 .. num_outputs - 1, or -100."""
        check_labels(targets, sample_shape, num_outputs)


def _masked(values: Tensor, targets: Tensor) -> Tensor:
    """The values (*samples, K), 0 for ignored targets."""
    valid = targets != IGNORED
    # a product with ones would be one more constant as large as the logits in every recording
    return values if bool(valid.all()) else values * valid.unsqueeze(-1).to(values.dtype)


LOSSES = {"cross-entropy": CrossEntropy}
