"""Losses of jobs by name, and their options; the engine has a class for each in `curvature.losses`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, create_model

from hessian_spectrum.api_schemas.message import RequestMessage, misfit

Target = Literal["numbers", "labels", "counts", "probabilities", "distributions"]

TARGETS: dict[Target, str] = {
    "numbers": "real targets",
    "labels": "class labels",
    "counts": "numbers of at least 0",
    "probabilities": "numbers from 0 to 1",
    "distributions": "probabilities that sum to 1 for each sample",
}
"""What targets are, in the words of a message."""

MAX_CLASSES = 1_000_000


class LossMessage(RequestMessage):
    """A loss with its options."""

    if TYPE_CHECKING:
        kind: str

    def engine_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the engine's class."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "class_axis")}


ClassAxis = Annotated[
    int | None,
    Field(
        ge=1,
        le=16,
        description="Axis of an exported program's output along which classes lie, where axis 0 counts samples: 1 "
        "for an output (n, K, height, width); null means the last axis.",
    ),
]


def _with_some_weight(weights: list[float]) -> list[float]:
    if not any(weights):
        raise misfit(message="at least one class must have a positive weight")
    return weights


class CrossEntropyOptions(LossMessage):
    """Cross-entropy with class weights and label smoothing, as in PyTorch."""

    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share e of the uniform distribution in each target: 1 - e times the label plus e / K "
        "for each of the K classes.",
    )
    class_weights: (
        Annotated[
            list[Annotated[float, Field(ge=0)]],
            Field(min_length=1, max_length=MAX_CLASSES),
            AfterValidator(_with_some_weight),
        ]
        | None
    ) = Field(
        default=None,
        description="Weight of each class; the loss is the weighted mean: the weighted sum over targets divided by the "
        "sum of the weights of their labels. null means 1 for each.",
    )
    class_axis: ClassAxis = None

    def settled(self) -> Mapping[str, Any]:
        """Leave out weights that are all 1."""
        all_one = self.class_weights is not None and all(weight == 1 for weight in self.class_weights)
        return {"class_weights": None} if all_one else {}


class HuberOptions(LossMessage):
    """The Huber loss, which is quadratic for small residuals and linear for large ones."""

    delta: float = Field(default=1.0, gt=0, description="Size of residuals at which the loss becomes linear.")


class KullbackLeiblerOptions(LossMessage):
    """The Kullback-Leibler divergence of the model's probabilities from the target's."""

    class_axis: ClassAxis = None

    def engine_arguments(self) -> dict[str, Any]:
        """Return the axis of the classes, which targets share with the outputs."""
        return {"class_axis": self.class_axis}


@dataclass(frozen=True)
class LossKind:
    """A loss: the targets and models that a request may combine with it, and the memory that its outputs take.

    Attributes:
        formula: How the loss follows from outputs f and targets y, for the documentation.
        targets: What targets may be.
        predicts_tokens: Whether language models have this loss.
        outputs_cost_like: Outputs whose memory was measured (`planning.size.SORTS`) and take at least as much.
        options: Base of the message that states the loss with its options.
        outputs_per_target: Number of outputs of the model for each number of the target.
        is_likelihood: Whether it is the negative logarithm of a distribution, so that there is a Fisher matrix.
        is_linear: Whether it is linear in the outputs, so that the Gauss-Newton matrix is zero.
        is_convex: Whether it is convex in the outputs, so that the Gauss-Newton matrix has no negative eigenvalue.
    """

    formula: str
    targets: frozenset[Target]
    predicts_tokens: bool = False
    outputs_cost_like: Literal["outputs", "logits"] = "logits"
    options: type[LossMessage] = LossMessage
    outputs_per_target: int = 1
    is_likelihood: bool = False
    is_linear: bool = False
    is_convex: bool = True

    @property
    def needs_labels(self) -> bool:
        """Whether targets are class labels in any case."""
        return self.targets == {"labels"}

    @property
    def needs_targets(self) -> bool:
        """Whether samples have targets at all."""
        return not self.is_linear

    @property
    def only_target(self) -> Target | None:
        """What targets other than labels are; None if there are only labels."""
        others = [target for target in TARGETS if target in self.targets and target != "labels"]
        return others[0] if others else None


LOSSES: dict[str, LossKind] = {
    "mse": LossKind(
        "(1/2n) sum |f - y|^2", frozenset({"numbers", "labels"}), outputs_cost_like="outputs", is_likelihood=True
    ),
    "cross-entropy": LossKind(
        "-(1/n) sum log softmax(f)_y, in nats",
        frozenset({"labels"}),
        predicts_tokens=True,
        outputs_cost_like="logits",
        options=CrossEntropyOptions,
        is_likelihood=True,
    ),
    "binary-cross-entropy": LossKind(
        "(1/n) sum (log(1 + exp(f)) - y f), for targets from 0 to 1 or -100, which is ignored",
        frozenset({"probabilities", "labels"}),
        is_likelihood=True,
    ),
    "huber": LossKind(
        "(1/n) sum of (f - y)^2/2 up to |f - y| = delta and of delta (|f - y| - delta/2) beyond",
        frozenset({"numbers"}),
        options=HuberOptions,
        is_likelihood=True,
    ),
    "gaussian-nll": LossKind(
        "(1/2n) sum (s + (y - m)^2 exp(-s)), where the outputs are all means m followed by all log variances s",
        frozenset({"numbers"}),
        outputs_per_target=2,
        is_likelihood=True,
        is_convex=False,
    ),
    "poisson-nll": LossKind(
        "(1/n) sum (exp(f) - y f), where f is the logarithm of the rate", frozenset({"counts"}), is_likelihood=True
    ),
    "kl": LossKind(
        "(1/n) sum y (log y - log softmax(f)), in nats",
        frozenset({"distributions"}),
        options=KullbackLeiblerOptions,
        is_likelihood=True,
    ),
    "output": LossKind(
        "(1/n) sum f: the model returns the loss of each sample, and targets are not used",
        frozenset({"numbers", "labels", "counts", "probabilities", "distributions"}),
        is_linear=True,
    ),
}


def _message_of(name: str, kind: LossKind) -> type[LossMessage]:
    """Return the class of the messages that state a loss with its options."""
    title = "".join(part.capitalize() for part in name.split("-")) + "Loss"
    literal: Any = Literal[name]
    message = create_model(title, __base__=kind.options, __module__=__name__, kind=(literal, ...))
    message.__doc__ = f"The loss {kind.formula}."
    return message


MESSAGES: dict[str, type[LossMessage]] = {name: _message_of(name, kind) for name, kind in LOSSES.items()}
"""Classes of the messages that state a loss as an object, by name."""

if TYPE_CHECKING:
    LossName = str
    LossObject = LossMessage
else:
    LossName = Literal[tuple(LOSSES)]
    LossObject = Annotated[reduce(or_, MESSAGES.values()), Field(discriminator="kind")]

LossField = Annotated[
    Annotated[LossName, Tag("name")] | Annotated[LossObject, Tag("object")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "object"),
]
"""A loss by its name, or as an object with options."""

AnyLoss = str | LossMessage
"""A loss by its name, or with options."""


def loss_name(loss: AnyLoss) -> str:
    """Return the name of a loss."""
    return loss if isinstance(loss, str) else loss.kind


def kind_of_loss(loss: AnyLoss) -> LossKind:
    """Return the entry of a loss."""
    return LOSSES[loss_name(loss)]


def settled_loss(loss: AnyLoss) -> AnyLoss:
    """Return the canonical form: the name alone where all options have their defaults."""
    if isinstance(loss, str):
        return loss
    canonical = loss.canonical()
    return loss.kind if canonical == type(loss)(kind=loss.kind) else canonical


def losses_where(target: Target | None = None, *, predicts_tokens: bool = False) -> str:
    """Names of the losses that have such targets, or that predict tokens, joined for a message."""
    return " or ".join(
        name
        for name, loss in LOSSES.items()
        if (target is None or target in loss.targets)
        and loss.predicts_tokens >= predicts_tokens
        and not (loss.is_linear and target is not None)
    )
