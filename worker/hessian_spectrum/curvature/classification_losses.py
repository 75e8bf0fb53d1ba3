"""Losses of classes and probabilities: cross-entropy, with weights and smoothing, binary cross-entropy, divergence."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hessian_spectrum.curvature.loss_base import (
    IGNORED,
    CanonicalLoss,
    check_labels,
    check_numbers,
    check_range,
    num_rows,
    num_valid_labels,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


class CrossEntropy(CanonicalLoss):
    """Cross-entropy of class labels or tokens, in nats.

    There is one term per valid target y with logits z: log sum_k exp(z_k) - z_y. Label -100 is ignored.
    """

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for logits (*samples, K) and labels (*samples)."""
        valid = targets != IGNORED
        picked = outputs.gather(-1, torch.where(valid, targets, 0).unsqueeze(-1)).squeeze(-1)
        terms = outputs.logsumexp(dim=-1) - picked
        return (terms * valid.to(terms.dtype)).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return softmax(z) - e_y for each valid target, and 0 for ignored ones."""
        classes = torch.arange(outputs.shape[-1], device=targets.device)
        picked = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        return _masked(outputs.softmax(dim=-1) - picked, targets)

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return (diag(p) - p p^T) u with p = softmax(z) for each valid target, and 0 for ignored ones."""
        probabilities = _masked(outputs.softmax(dim=-1), targets)
        weighted = probabilities * direction
        return weighted - probabilities * weighted.sum(dim=-1, keepdim=True)

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of labels that are not ignored."""
        return num_valid_labels(targets)

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are labels (*sample_shape,) in 0 .. num_outputs - 1, or -100."""
        check_labels(targets, sample_shape, num_outputs)


def _masked(values: Tensor, targets: Tensor) -> Tensor:
    """Return the values (*samples, K), with 0 for ignored targets."""
    valid = targets != IGNORED
    # a product with ones would be one more constant as large as the logits in every recording
    return values if bool(valid.all()) else values * valid.unsqueeze(-1).to(values.dtype)


class SoftTargets(CanonicalLoss):
    """A cross-entropy with weights t_k of all classes: s log sum_k exp(z_k) - sum_k t_k z_k, with s = sum_k t_k."""

    @abstractmethod
    def class_shares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return t (*samples, K), which is 0 for ignored targets."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for logits (*samples, K)."""
        shares = self.class_shares(outputs, targets)
        return (shares.sum(dim=-1) * outputs.logsumexp(dim=-1) - (shares * outputs).sum(dim=-1)).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return s p - t with p = softmax(z)."""
        shares = self.class_shares(outputs, targets)
        return shares.sum(dim=-1, keepdim=True) * outputs.softmax(dim=-1) - shares

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return s (diag(p) - p p^T) u with p = softmax(z)."""
        probabilities = outputs.softmax(dim=-1)
        weighted = probabilities * direction
        product = weighted - probabilities * weighted.sum(dim=-1, keepdim=True)
        return self.class_shares(outputs, targets).sum(dim=-1, keepdim=True) * product


class WeightedCrossEntropy(SoftTargets):
    """Cross-entropy with class weights w and label smoothing e, as in PyTorch.

    The term of a label y is -(1 - e) w_y log p_y - (e / K) sum_k w_k log p_k with p = softmax(z), and its weight in the
    mean is w_y. Label -100 is ignored.

    Args:
        class_weights: w, one for each class; None: 1 for each.
        label_smoothing: e, from 0 to 1.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        self._class_weights = None if class_weights is None else tuple(class_weights)
        self._smoothing = label_smoothing

    def class_shares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return (1 - e) w_y e_y + (e / K) w for each valid label y."""
        num_classes = outputs.shape[-1]
        classes = torch.arange(num_classes, device=targets.device)
        picked = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
        shares = (1 - self._smoothing) * picked + self._smoothing / num_classes
        if self._class_weights is not None:
            shares = shares * torch.tensor(self._class_weights, dtype=outputs.dtype, device=outputs.device)
        return _masked(shares, targets)

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of labels that are not ignored."""
        return num_valid_labels(targets)

    def weight(self, targets: Tensor) -> float:
        """Return the sum of w_y over the valid labels y."""
        if self._class_weights is None:
            return num_valid_labels(targets)
        counts = torch.bincount(targets[targets != IGNORED].reshape(-1), minlength=len(self._class_weights)).tolist()
        return float(sum(count * weight for count, weight in zip(counts, self._class_weights, strict=True)))

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are labels (*sample_shape,), and that there is a weight for each class."""
        if self._class_weights is not None and len(self._class_weights) != num_outputs:
            message = f"{len(self._class_weights)} class weights for {num_outputs} classes"
            raise InvalidProblemError(message)
        check_labels(targets, sample_shape, num_outputs)


def cross_entropy(
    class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> CrossEntropy | WeightedCrossEntropy:
    """Return the cross-entropy with these options, in the form that costs least."""
    if class_weights is None and label_smoothing == 0:
        return CrossEntropy()
    return WeightedCrossEntropy(class_weights, label_smoothing)


class KullbackLeibler(SoftTargets):
    """The divergence of the model's probabilities from given ones: sum_k y_k (log y_k - log softmax(z)_k), in nats.

    Args:
        class_axis: Axis of the targets along which the classes lie; None: the last one.
    """

    def __init__(self, class_axis: int | None = None) -> None:
        self._axis = -1 if class_axis is None else class_axis

    def class_shares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the probabilities y with the classes last."""
        return targets.movedim(self._axis, -1)

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for logits and probabilities (*samples, K)."""
        return super().total(outputs, targets) + torch.xlogy(targets, targets).sum()

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of distributions."""
        return num_rows(targets.movedim(self._axis, -1))

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that each row of the targets (*sample_shape, num_outputs) is a distribution."""
        targets = targets.movedim(self._axis, -1)
        check_numbers(targets, sample_shape, num_outputs)
        check_range(targets, 0, 1, what="probabilities")
        deviation = float((targets.sum(dim=-1, dtype=torch.float64) - 1).abs().max())
        if deviation > SUM_TOLERANCE:
            raise InvalidProblemError(f"the probabilities of each target must sum to 1; a sum is {deviation:.2g} off")


SUM_TOLERANCE = 1e-4
"""Largest distance from 1 of the sum of a target's probabilities, which may come from computations in float32."""


class BinaryCrossEntropy(CanonicalLoss):
    """Sum over outputs k of log(1 + exp(f_k)) - y_k f_k: cross-entropies of independent events with logits f, in nats.

    Targets are probabilities y (*samples, K), of which -100 is ignored; class labels (int64) stand for one-hot y, and
    label -100 is ignored. A sample counts in the mean unless all of its targets are ignored.
    """

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the terms for outputs (*samples, K) and targets of that shape, or labels (*samples)."""
        probabilities, valid = _events(outputs, targets)
        terms = torch.logaddexp(outputs, torch.zeros_like(outputs)) - probabilities * outputs
        return (terms * valid).sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return sigmoid(f) - y, and 0 where the target is ignored."""
        probabilities, valid = _events(outputs, targets)
        return (outputs.sigmoid() - probabilities) * valid

    def hessian_product(self, outputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return p (1 - p) u with p = sigmoid(f), and 0 where the target is ignored."""
        _, valid = _events(outputs, targets)
        return outputs.sigmoid() * (-outputs).sigmoid() * valid * direction

    def num_terms(self, targets: Tensor) -> int:
        """Return the number of samples with a target that is not ignored."""
        if not targets.is_floating_point():
            return num_valid_labels(targets)
        return int((targets != IGNORED).any(dim=-1).sum())

    def check_targets(self, targets: Tensor, sample_shape: tuple[int, ...], num_outputs: int) -> None:
        """Check that targets are probabilities (*sample_shape, num_outputs) or -100, or labels (*sample_shape,)."""
        if not targets.is_floating_point():
            check_labels(targets, sample_shape, num_outputs)
            return
        check_numbers(targets, sample_shape, num_outputs)
        check_range(targets, 0, 1, what="probabilities", ignorable=True)


def _events(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (*samples, K), and 1 for those that are valid and 0 for ignored ones."""
    if targets.is_floating_point():
        valid = targets != IGNORED
        return torch.where(valid, targets, 0), valid.to(outputs.dtype)
    classes = torch.arange(outputs.shape[-1], device=targets.device)
    one_hot = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
    return one_hot, (targets != IGNORED).unsqueeze(-1).to(outputs.dtype)
