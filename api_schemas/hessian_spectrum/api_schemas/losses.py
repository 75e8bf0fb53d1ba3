"""Losses of jobs by name; the engine has a class for each in `curvature.losses`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Target = Literal["numbers", "labels"]


@dataclass(frozen=True)
class LossKind:
    """A loss: the targets and models that a request may combine with it, and the memory that its outputs take.

    Attributes:
        formula: How the loss follows from outputs f and targets y, for the documentation.
        targets: Whether targets are real numbers, class labels, or either.
        predicts_tokens: Whether language models have this loss.
        outputs_cost_like: Outputs whose memory was measured (`planning.size.SORTS`) and take at least as much.
    """

    formula: str
    targets: frozenset[Target]
    predicts_tokens: bool = False
    outputs_cost_like: Literal["outputs", "logits"] = "logits"

    @property
    def needs_labels(self) -> bool:
        """Whether targets are class labels in any case."""
        return self.targets == {"labels"}

    @property
    def needs_targets(self) -> bool:
        """Whether samples have targets at all."""
        return bool(self.targets)


LOSSES: dict[str, LossKind] = {
    "mse": LossKind("(1/2n) sum |f - y|^2", frozenset({"numbers", "labels"}), outputs_cost_like="outputs"),
    "cross-entropy": LossKind(
        "-(1/n) sum log softmax(f)_y, in nats", frozenset({"labels"}), predicts_tokens=True, outputs_cost_like="logits"
    ),
}

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]


def losses_where(target: Target | None = None, *, predicts_tokens: bool = False) -> str:
    """Names of the losses that have such targets, or that predict tokens, joined for a message."""
    return " or ".join(
        name
        for name, loss in LOSSES.items()
        if (target is None or target in loss.targets) and loss.predicts_tokens >= predicts_tokens
    )
