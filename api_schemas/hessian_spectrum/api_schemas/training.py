"""Training before a spectrum is computed."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import RequestMessage, Seed, misfit


class AdamWOptimizer(RequestMessage):
    """Adam with decoupled weight decay of parameters that have two or more axes; the defaults are those of nanoGPT."""

    kind: Literal["adamw"]
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(
        default=0.95, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="Number added to the denominator of the step.")
    weight_decay: float = Field(
        default=0.1, ge=0, description="Decoupled weight decay, applied only to parameters of two or more axes."
    )


class PlateauSchedule(RequestMessage):
    """Multiplies the learning rate by `factor` when the epoch's loss stops improving; stops at the smallest rate."""

    kind: Literal["plateau"]
    factor: float = Field(default=0.1, gt=0, lt=1, description="Factor by which the learning rate is multiplied.")
    patience: int = Field(
        default=10,
        ge=0,
        le=1_000_000,
        description="Number of epochs without improvement before the learning rate is reduced.",
    )
    threshold: float = Field(
        default=1e-4, ge=0, lt=1, description="Smallest relative decrease of the loss that counts as an improvement."
    )
    min_learning_rate: float = Field(
        default=1e-5, ge=0, description="Smallest learning rate, at which a further plateau ends training."
    )


class WarmupCosineSchedule(RequestMessage):
    """Learning rate: linear growth over warmup_steps, half a cosine until decay_steps, then constant."""

    kind: Literal["warmup-cosine"]
    warmup_steps: int = Field(
        default=0, ge=0, le=10_000_000, description="Number of steps over which the learning rate grows linearly."
    )
    decay_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Step from which the learning rate is constant; null means num_steps, or warmup_steps if that is "
        "larger.",
    )
    min_learning_rate: float = Field(default=0.0, ge=0, description="Learning rate from decay_steps on.")

    @model_validator(mode="after")
    def _decay_follows_warmup(self) -> Self:
        if self.decay_steps is not None and self.decay_steps < self.warmup_steps:
            raise misfit("decay_steps", message=f"fewer than warmup_steps = {self.warmup_steps:,}")
        return self


Schedule = Annotated[PlateauSchedule | WarmupCosineSchedule, Field(discriminator="kind")]


class Training(RequestMessage):
    """Training by gradient descent on batches before the spectrum is computed, in the precision of the parameters."""

    num_steps: int = Field(
        ge=1, le=10_000_000, description="Largest number of steps; a schedule may end training earlier."
    )
    learning_rate: float = Field(
        gt=0, description="Initial or largest learning rate; under mup it is multiplied by a factor for each layer."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Number of samples per step; null uses all samples in every step."
    )
    optimizer: AdamWOptimizer | None = Field(
        default=None,
        description="Optimizer to train with; null means stochastic gradient descent with `momentum` and `nesterov`.",
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of stochastic gradient descent.")
    nesterov: bool = Field(default=False, description="Whether to use Nesterov's form of momentum.")
    schedule: Schedule | None = Field(
        default=None, description="Schedule of the learning rate; null keeps it constant."
    )
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        description="Largest norm of the gradient of all parameters together; null disables clipping.",
    )
    seed: Seed = Field(default=0, description="Seed of the order of the samples.")

    def settled(self) -> Mapping[str, Any]:
        """Default seed if every step sees all samples, and the last step of a cosine filled in."""
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
