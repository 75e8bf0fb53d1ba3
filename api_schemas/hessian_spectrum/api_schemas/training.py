"""Training before a spectrum is taken."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import RequestMessage, Seed, misfit


class AdamWOptimizer(RequestMessage):
    """Adam with decoupled weight decay, of parameters with two or more axes alone; the numbers are nanoGPT's."""

    kind: Literal["adamw"]
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)


class PlateauSchedule(RequestMessage):
    """Multiply the learning rate by `factor` when the epoch's loss stops improving; at the smallest rate, stop."""

    kind: Literal["plateau"]
    factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(
        default=10, ge=0, le=1_000_000, description="How many epochs without improvement are tolerated."
    )
    threshold: float = Field(
        default=1e-4,
        ge=0,
        lt=1,
        description="By how much the loss must fall, relative to itself, to count as an improvement.",
    )
    min_learning_rate: float = Field(default=1e-5, ge=0)


class WarmupCosineSchedule(RequestMessage):
    """A rate that grows linearly over warmup_steps, falls along half a cosine until decay_steps, and stays."""

    kind: Literal["warmup-cosine"]
    warmup_steps: int = Field(default=0, ge=0, le=10_000_000)
    decay_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="The step at which the decay ends; null means num_steps, at least warmup_steps.",
    )
    min_learning_rate: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _decay_follows_warmup(self) -> Self:
        if self.decay_steps is not None and self.decay_steps < self.warmup_steps:
            raise misfit("decay_steps", message=f"fewer than warmup_steps = {self.warmup_steps:,}")
        return self


Schedule = Annotated[PlateauSchedule | WarmupCosineSchedule, Field(discriminator="kind")]


class Training(RequestMessage):
    """Descent along the gradient of batches before the spectrum is taken, in the precision of the parameters."""

    num_steps: int = Field(
        ge=1, le=10_000_000, description="The number of steps at most; a schedule may end training before."
    )
    learning_rate: float = Field(
        gt=0, description="The learning rate, which mup multiplies by a factor for each layer."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="How many samples a step takes; null means all samples in every step."
    )
    optimizer: AdamWOptimizer | None = Field(
        default=None,
        description="The optimizer; null means stochastic gradient descent with `momentum` and `nesterov`.",
    )
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    schedule: Schedule | None = Field(
        default=None, description="How the learning rate changes; null means that it is constant."
    )
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        description="The largest norm of the gradient of all parameters together; null means no limit.",
    )
    seed: Seed = Field(default=0, description="The seed of the order of the samples.")

    def settled(self) -> Mapping[str, Any]:
        """The order of samples that are all seen in every step, and the last step of a cosine."""
        seed = {"seed": 0} if self.batch_size is None else {}
        rule = self.schedule
        if isinstance(rule, WarmupCosineSchedule):
            decay_steps = rule.decay_steps or max(self.num_steps, rule.warmup_steps)
            return seed | {"schedule": rule.model_copy(update={"decay_steps": decay_steps})}
        return seed

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise misfit("nesterov", message="Nesterov's step needs a momentum above 0")
        if self.optimizer is not None and self.momentum != 0:
            raise misfit("momentum", message="adamw has beta1 instead")
        rule = self.schedule
        if isinstance(rule, WarmupCosineSchedule) and rule.min_learning_rate > self.learning_rate:
            raise misfit("schedule", "min_learning_rate", message=f"above learning_rate = {self.learning_rate:g}")
        return self
