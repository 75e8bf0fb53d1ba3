"""Request of a job that compares the largest eigenvalues of the Hessian and the GGN matrix during training."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hessian_spectrum.api_schemas.data import TextData, TokenData
from hessian_spectrum.api_schemas.data.kind import check_data
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, Tags, TimeLimit, Webhook, misfit
from hessian_spectrum.api_schemas.methods.top_k import LEAST_TOP_K_LIMIT
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import KindMessage

StreamData = Annotated[TextData | TokenData, Field(discriminator="kind")]
"""Data whose sequences are windows of one stream of tokens."""

MAX_PRETRAINED_MODELS, MAX_MODELS = 4, 64
MAX_MEASUREMENTS = 10_000
"""Largest number of points of one result, over all models and seeds."""

ComparedMatrix = Literal["hessian", "ggn"]
MATRICES: tuple[ComparedMatrix, ...] = ("hessian", "ggn")


class MeasuringInterval(RequestMessage):
    """Range of training steps in which every n-th step is measured."""

    every: int = Field(ge=1, le=10_000_000, description="Measure each step that is divisible by this number.")
    until_step: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Last step of the interval; null in the last interval, which extends to the end of training.",
    )


_INTERVALS_OF_THE_PAPER = [
    MeasuringInterval(every=10, until_step=100),
    MeasuringInterval(every=100, until_step=1_000),
    MeasuringInterval(every=1_000),
]


class Pretraining(RequestMessage):
    """Training from scratch with the procedure of nanoGPT.

    The optimizer is AdamW, with weight decay only on parameters of two or more axes. The learning rate grows linearly
    over warmup_steps, falls along half a cosine until decay_steps and then stays constant. A batch consists of
    `batch_size` windows at independent, uniformly distributed positions of the tokens.
    """

    num_steps: int = Field(ge=1, le=10_000_000, description="Number of training steps in all.")
    batch_size: int = Field(
        ge=1, le=65_536, description="Number of sequences per step, each as long as the sequences that are measured."
    )
    learning_rate: float = Field(
        default=6e-4, gt=0, description="Largest learning rate, reached at the end of the warmup."
    )
    min_learning_rate: float = Field(default=6e-5, ge=0, description="Learning rate from decay_steps on.")
    warmup_steps: int = Field(
        default=2_000, ge=0, le=10_000_000, description="Number of steps over which the learning rate grows linearly."
    )
    decay_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Step from which the learning rate is constant; null means num_steps, or warmup_steps if that is "
        "larger.",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay rate of AdamW's running mean of the gradient.")
    beta2: float = Field(
        default=0.95, ge=0, lt=1, description="Decay rate of AdamW's running mean of the squared gradient."
    )
    weight_decay: float = Field(
        default=0.1, ge=0, description="Decoupled weight decay, applied only to parameters of two or more axes."
    )
    gradient_clip: float | None = Field(
        default=1.0,
        gt=0,
        description="Largest norm of the gradient of all parameters together; null disables clipping.",
    )
    measure_every: list[MeasuringInterval] = Field(
        default=_INTERVALS_OF_THE_PAPER,
        min_length=1,
        max_length=16,
        description="Measuring intervals in ascending order; steps 0 and num_steps are always measured.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise misfit("min_learning_rate", message=f"above learning_rate = {self.learning_rate:g}")
        if self.decay_steps is not None and self.decay_steps < self.warmup_steps:
            raise misfit("decay_steps", message=f"fewer than warmup_steps = {self.warmup_steps:,}")
        for index, (interval, following) in enumerate(pairwise(self.measure_every)):
            if interval.until_step is None:
                message = "only the last interval may go to the end"
                raise misfit("measure_every", index, "until_step", message=message)
            if following.until_step is not None and following.until_step <= interval.until_step:
                message = f"must be above {interval.until_step:,}, where the interval before ends"
                raise misfit("measure_every", index + 1, "until_step", message=message)
        return self

    def settled(self) -> Mapping[str, Any]:
        """Return the last step of the cosine, filled in if the request leaves it out."""
        return {"decay_steps": self.last_decay_step}

    @property
    def last_decay_step(self) -> int:
        """First step with the smallest learning rate."""
        return self.decay_steps or max(self.num_steps, self.warmup_steps)

    @property
    def num_measurements(self) -> int:
        """Number of measured steps for one model and one seed."""
        inner = sum(len(steps) for steps in self._inner_steps())
        return inner + 2

    @property
    def measured_steps(self) -> list[int]:
        """Measured steps in ascending order, from 0 to num_steps."""
        return [0, *(step for steps in self._inner_steps() for step in steps), self.num_steps]

    def _inner_steps(self) -> list[range]:
        """Measured steps strictly between the first and the last, one range for each interval."""
        steps, start = [], 1
        for interval in self.measure_every:
            end = self.num_steps if interval.until_step is None else min(interval.until_step + 1, self.num_steps)
            first = -(-start // interval.every) * interval.every
            steps.append(range(first, end, interval.every))
            start = max(start, end)
        return steps


class HessianVsGgnRequest(KindMessage):
    """Request to compare the largest eigenvalues of the Gauss-Newton matrix and of the Hessian.

    Each point has both eigenvalues, the relative error |hessian - ggn| / |hessian|, the loss, and the mean over targets
    of the norm of the loss's derivative with respect to the logits. All are computed on the same newly drawn sequences.

    References:
        Cracking the Hessian, section 4.3 and appendix D.1.5; figures 5 and 23 to 25.
    """

    example: ClassVar[Mapping[str, Any] | None] = {
        "kind": "hessian-vs-ggn",
        "models": [{"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 256}],
        "data": {"kind": "text", "text": "to be or not to be", "num_sequences": 2, "sequence_length": 4},
    }

    kind: Literal["hessian-vs-ggn"]
    models: list[Gpt2] = Field(
        min_length=1,
        max_length=MAX_MODELS,
        description=f"Models to compare; at most {MAX_PRETRAINED_MODELS} if they are pretrained.",
    )
    labels: list[Annotated[str, Field(min_length=1, max_length=80)]] | None = Field(
        default=None,
        description="Label of each model in the picture; null derives the labels from the sizes of the models.",
    )
    data: StreamData = Field(
        description="Text or tokens, from which num_sequences sequences are drawn anew for each point."
    )
    loss: Literal["cross-entropy"] = Field(
        default="cross-entropy", description="Loss function, as a mean over targets, in nats."
    )
    pretrain: Pretraining | None = Field(
        default=None,
        description="Training during which points are measured; null measures each model once per seed, at its own "
        "parameters.",
    )
    seeds: list[Seed] = Field(
        default=[0],
        min_length=1,
        max_length=10,
        description="Seeds of the runs, one run each: of initial parameters and batches if models are pretrained, of "
        "the measured sequences, and of the start vectors.",
    )
    tolerance: float = Field(
        default=1e-4,
        gt=0,
        lt=1,
        description="Largest accepted error of the eigenvalues and norm of their residuals, relative to the "
        "eigenvalues themselves.",
    )
    absolute_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Largest accepted error of the eigenvalues and norm of their residuals, in loss per squared "
        "parameter; meeting either tolerance suffices.",
    )
    max_products: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Largest number of matrix-vector products for each eigenvalue; null means 1000.",
    )
    precision: Literal["float64", "float32"] = Field(
        default="float32", description="Floating-point precision of parameters and products."
    )
    time_limit_seconds: TimeLimit = None
    tags: Tags = Field(default={})
    shared: bool = Field(
        default=False, description="Whether holders of every API key of the server may read the job and its result."
    )
    webhook: Webhook = None

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        return f"{len(self.models)} models, {len(self.seeds)} seeds"

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        for index, model in enumerate(self.models):
            self._check_model(index, model)
        if self.labels is not None and len(self.labels) != len(self.models):
            raise misfit("labels", message=f"{len(self.labels)} labels for {len(self.models)} models")
        if self.data.seed:
            raise misfit("data", "seed", message="sequences are drawn from each of `seeds`")
        if len(set(self.seeds)) < len(self.seeds):
            raise misfit("seeds", message="the same seed twice gives the same run twice")
        if self.pretrain is not None:
            self._check_pretraining(self.pretrain)
        return self

    def _check_model(self, index: int, model: Gpt2) -> None:
        if model.attention_sink is not None:
            raise misfit("models", index, "attention_sink", message="is for spectra: a comparison has none")
        try:
            check_data(model, self.data, self.loss)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            first, *others = fault["loc"]
            location = ("models", index) if first == "model" else (first,)
            raise misfit(*location, *others, message=fault["msg"]) from None

    def _check_pretraining(self, plan: Pretraining) -> None:
        if len(self.models) > MAX_PRETRAINED_MODELS:
            raise misfit("models", message=f"at most {MAX_PRETRAINED_MODELS} models can be pretrained in one job")
        for index, model in enumerate(self.models):
            if model.seed:
                raise misfit("models", index, "seed", message="initial parameters are drawn from each of `seeds`")
        if self.num_measurements > MAX_MEASUREMENTS:
            message = f"{self.num_measurements:,} measurements; a result holds at most {MAX_MEASUREMENTS:,}"
            raise misfit("pretrain", "measure_every", message=message)

    def settled(self) -> Mapping[str, Any]:
        """Return the limit on products, which the server chooses if the request leaves it out."""
        return {"max_products": self.max_products or LEAST_TOP_K_LIMIT}

    @property
    def num_runs(self) -> int:
        """Number of models times number of seeds."""
        return len(self.models) * len(self.seeds)

    @property
    def num_measurements(self) -> int:
        """Number of points of the whole job."""
        return self.num_runs * (1 if self.pretrain is None else self.pretrain.num_measurements)
