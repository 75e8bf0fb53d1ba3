"""Figures with GPT-2: the Gauss-Newton matrix in place of the Hessian while it is pretrained, and attention sinks."""

from collections.abc import Callable
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.checkpoints import CheckpointName, with_checkpoint
from hessian_spectrum.api_schemas.data import TextData, TokenData
from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import distinct
from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest, MeasuringInterval, Pretraining
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, misfit, relocated
from hessian_spectrum.api_schemas.methods import LanczosMethod
from hessian_spectrum.api_schemas.models import AttentionSink, Gpt2
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.training import AdamWOptimizer, Training, WarmupCosineSchedule

SECONDS_PER_PRODUCT = 3e-10
"""Seconds of one Hessian product on two cores, for each parameter and token."""

_PRODUCTS_PER_EIGENVALUE = 60

_BYTES_PER_PARAMETER, _BYTES_PER_ACTIVATION = 60, 40

_RENAMED: dict[tuple[str | int, str | int], str] = {
    ("method", "num_steps"): "num_lanczos_steps",
    ("model", "mean_score"): "mean_scores",
    ("model", "attention_sink"): "mean_scores",
}
"""Parameters that have another name than the field of a request, by the first and the last part of its location."""

TokenSource = Annotated[TextData | TokenData, Field(discriminator="kind")]


def _source(num_sequences: int, sequence_length: int) -> dict[str, Any]:
    return {
        "kind": "text",
        "name": "pydoc-topics",
        "num_sequences": num_sequences,
        "sequence_length": sequence_length,
    }


class Gpt2Sizes(RequestMessage):
    """Sizes of a GPT-2."""

    n_layer: int = Field(default=12, ge=1, le=48, description="Number of transformer blocks.")
    n_head: int = Field(default=12, ge=1, le=64, description="Number of attention heads of each block.")
    n_embd: int = Field(default=768, ge=1, le=4096, description="Width of the residual stream.")
    n_positions: int = Field(default=1024, ge=2, le=8192, description="Longest sequence in tokens.")
    vocab_size: int = Field(default=50_304, ge=2, le=100_000, description="Number of tokens in the vocabulary.")
    bias: bool = Field(default=False, description="Whether linear layers and layer norms have biases.")
    activation: Literal["gelu-tanh", "gelu", "relu"] = Field(default="gelu", description="Activation of the MLPs.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise misfit("n_head", message=f"must divide n_embd = {self.n_embd}")
        return self

    def model(self, **fields: Any) -> Gpt2:
        """Return the model of these sizes."""
        return Gpt2(kind="gpt2", **self.model_dump(), **fields)


def _cost(model: Gpt2, num_tokens: int, *, num_products: int, num_passes: float) -> MeasurementCost:
    num_parameters = sum(map(prod, parameter_shapes(model).values()))
    widest = 16 * model.n_embd * model.n_layer + 4 * model.vocab_size
    seconds = SECONDS_PER_PRODUCT * num_parameters * num_tokens * (num_products + num_passes)
    return MeasurementCost(
        num_parameters=num_parameters,
        num_products=num_products,
        num_training_passes=num_passes,
        peak_bytes=_BYTES_PER_PARAMETER * num_parameters + _BYTES_PER_ACTIVATION * widest * num_tokens,
        seconds=5.0 + seconds,
    )


def _check(parameters: FigureParameters, make: Callable[[Any], object]) -> None:
    """Make the requests of a figure, with errors at the parameters that the fields of requests come from."""

    def parameter(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if location[0] in type(parameters).model_fields:
            return location
        name = _RENAMED.get((location[0], location[-1]), location[-1])
        if name in Gpt2Sizes.model_fields:
            return ("sizes", name)
        return (name,) if name in type(parameters).model_fields else ()

    try:
        make(parameters)
    except ValidationError as error:
        raise relocated(error, parameter) from None


class PretrainingMeasurement(Measurement):
    """The largest eigenvalues of Hessian and Gauss-Newton matrix along one pretraining run."""

    can_use_gpu = True

    kind: Literal["gpt-pretraining"]
    request: HessianVsGgnRequest = Field(description="A comparison of one model with one seed.")

    @property
    def job_request(self) -> HessianVsGgnRequest:
        """The job."""
        return self.request

    @property
    def cost(self) -> MeasurementCost:
        """Cost of all steps of training, and of two eigenvalues at each measured step."""
        request, plan = self.request, self.request.pretrain
        assert plan is not None
        return _cost(
            request.models[0],
            request.data.num_sequences * request.data.sequence_length,
            num_products=2 * _PRODUCTS_PER_EIGENVALUE * plan.num_measurements,
            num_passes=plan.num_steps * plan.batch_size / request.data.num_sequences,
        )


class PretrainingParameters(FigureParameters):
    """A GPT-2 and its variant without attention, which are pretrained and measured."""

    sizes: Gpt2Sizes = Field(default=Gpt2Sizes(), description="Sizes of the model.")
    data: TokenSource = Field(
        default=TextData.model_validate(_source(8, 1024)),
        description="Tokens to train on, and the number and length of the sequences that are measured; the source has "
        "OpenWebText, which can be uploaded as an artifact.",
    )
    num_steps: int = Field(default=10_000, ge=2, le=1_000_000, description="Number of training steps.")
    batch_size: int = Field(default=480, ge=1, le=4096, description="Number of sequences in a training batch.")
    learning_rate: float = Field(default=6e-4, gt=0, le=10, description="Largest learning rate of the schedule.")
    min_learning_rate: float = Field(default=6e-5, ge=0, description="Learning rate from decay_steps on.")
    warmup_steps: int = Field(default=2_000, ge=0, le=1_000_000, description="Steps of the linear warm-up.")
    decay_steps: int = Field(default=600_000, ge=1, le=10_000_000, description="Step from which it is constant.")
    measure_every: list[MeasuringInterval] = Field(
        default=[
            MeasuringInterval(every=10, until_step=100),
            MeasuringInterval(every=100, until_step=1_000),
            MeasuringInterval(every=1_000),
        ],
        min_length=1,
        max_length=16,
        description="Intervals between measured steps.",
    )
    seeds: Annotated[list[Seed], AfterValidator(distinct)] = Field(
        default=[0, 1, 2], min_length=1, max_length=10, description="Seeds of the runs."
    )
    tolerance: float = Field(default=1e-4, gt=0, lt=1, description="Relative tolerance of the eigenvalues.")

    @model_validator(mode="after")
    def _runs_are_requests(self) -> Self:
        _check(self, _runs)
        return self


def _runs(parameters: PretrainingParameters) -> list[PretrainingMeasurement]:
    """Return a measurement for each model and seed."""
    plan = Pretraining(
        num_steps=parameters.num_steps,
        batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate,
        min_learning_rate=parameters.min_learning_rate,
        warmup_steps=parameters.warmup_steps,
        decay_steps=max(parameters.decay_steps, parameters.warmup_steps),
        measure_every=parameters.measure_every,
    )
    requests = [
        HessianVsGgnRequest(
            kind="hessian-vs-ggn",
            models=[parameters.sizes.model(attention=attention)],
            data=parameters.data,
            pretrain=plan,
            seeds=[seed],
            tolerance=parameters.tolerance,
        )
        for attention in (True, False)
        for seed in parameters.seeds
    ]
    return [PretrainingMeasurement(kind="gpt-pretraining", request=request) for request in requests]


class SinkMeasurement(Measurement):
    """The spectra of one GPT-2 with several attention sinks."""

    can_use_gpu = True

    kind: Literal["gpt-sinks"]
    request: SpectrumRequest = Field(description="A job with one density for each sink.")

    @property
    def job_request(self) -> SpectrumRequest:
        """The job."""
        return self.request

    @property
    def cost(self) -> MeasurementCost:
        """Cost of training and of all products."""
        request = self.request
        assert isinstance(request.model, Gpt2)
        assert isinstance(request.data, TextData | TokenData)
        assert isinstance(request.method, LanczosMethod)
        plan = request.train
        return _cost(
            request.model,
            request.data.num_sequences * request.data.sequence_length,
            num_products=request.num_spectra * request.method.num_steps * request.method.num_probes,
            num_passes=0 if plan is None else plan.num_steps * (plan.batch_size or 1) / request.data.num_sequences,
        )


class SinkParameters(FigureParameters):
    """A fitted GPT-2 whose first head in every block gets a bias on the scores of the first token."""

    checkpoint: CheckpointName | None = Field(
        default=None,
        description="Checkpoint of a GPT-2 in the models directory, such as the source's 124M; null trains a model of "
        "these sizes.",
    )
    checkpoint_sha256: str | None = Field(default=None, description="Digest of the checkpoint; the server fills it in.")
    sizes: Gpt2Sizes = Field(default=Gpt2Sizes(), description="Sizes of the model.")
    data: TokenSource = Field(
        default=TextData.model_validate(_source(8, 1024)), description="Tokens to measure, and to train on."
    )
    mean_scores: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(distinct)] = Field(
        default=[0.5, 0.65, 0.81],
        min_length=1,
        max_length=16,
        description="Mean attention on the first token with each sink, beside the model without one; 0.81 is the "
        "source's, those between are ours.",
    )
    num_steps: int = Field(default=600, ge=1, le=1_000_000, description="Training steps of a model without checkpoint.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Sequences in a training batch.")
    learning_rate: float = Field(default=6e-4, gt=0, le=10, description="Largest learning rate of the schedule.")
    num_lanczos_steps: int = Field(default=128, ge=2, le=4096, description="Lanczos steps of each probe.")
    num_probes: int = Field(default=8, ge=1, le=256, description="Probes of each spectrum; 8 x 128 are 1024 products.")
    num_points: int = Field(default=1024, ge=2, le=100_000, description="Points of the grid of the density.")
    kappa: float = Field(default=3.0, gt=1, le=1e6, description="Sharpness of the smoothing.")
    seed: Seed = Field(default=0, description="Seed of the weights, the batches and the probes.")

    @model_validator(mode="before")
    @classmethod
    def _with_checkpoint(cls, fields: Any, info: ValidationInfo) -> Any:
        """Fill in the digest and the sizes of the checkpoint."""
        if not isinstance(fields, dict) or not info.context:
            return fields
        model = {name: fields[name] for name in ("checkpoint", "checkpoint_sha256") if fields.get(name) is not None}
        found = with_checkpoint(model, info, lambda catalog, name: catalog.gpt2(name))
        sizes = {name: value for name, value in found.items() if name in Gpt2Sizes.model_fields}
        own = {"checkpoint_sha256": found["checkpoint_sha256"], "sizes": sizes} if sizes else {}
        return {**fields, **own}

    @model_validator(mode="after")
    def _is_a_request(self) -> Self:
        _check(self, _sinks)
        return self


def _sinks(parameters: SinkParameters) -> list[SinkMeasurement]:
    sink = AttentionSink(mean_score=[None, *parameters.mean_scores])
    own: dict[str, Any] = {"checkpoint": parameters.checkpoint, "checkpoint_sha256": parameters.checkpoint_sha256}
    train = None
    if parameters.checkpoint is None:
        own = {"seed": parameters.seed}
        train = Training(
            num_steps=parameters.num_steps,
            learning_rate=parameters.learning_rate,
            batch_size=parameters.batch_size,
            optimizer=AdamWOptimizer(kind="adamw"),
            schedule=WarmupCosineSchedule(kind="warmup-cosine", warmup_steps=parameters.num_steps // 10),
            gradient_clip=1.0,
            seed=parameters.seed,
        )
    request = SpectrumRequest(
        kind="spectrum",
        model=parameters.sizes.model(attention_sink=sink, **own),
        data=parameters.data,
        loss="cross-entropy",
        method=LanczosMethod(
            kind="lanczos",
            num_steps=parameters.num_lanczos_steps,
            num_probes=parameters.num_probes,
            num_points=parameters.num_points,
            kappa=parameters.kappa,
        ),
        train=train,
        seed=parameters.seed,
    )
    return [SinkMeasurement(kind="gpt-sinks", request=request)]


_SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 256}

_QUICK_PRETRAINING = {
    "sizes": _SMALL,
    "data": _source(8, 32),
    "num_steps": 300,
    "batch_size": 16,
    "learning_rate": 0.03,
    "min_learning_rate": 3e-3,
    "warmup_steps": 50,
    "decay_steps": 300,
    "measure_every": [{"every": 10, "until_step": 20}, {"every": 40}],
    "tolerance": 1e-3,
}

_QUICK_SINKS = {
    "sizes": _SMALL,
    "data": _source(96, 32),
    "num_steps": 300,
    "batch_size": 16,
    "learning_rate": 0.01,
    "num_lanczos_steps": 60,
    "num_probes": 4,
}


def _pretraining_figure(number: str, title: str, *, position: int) -> Figure:
    return Figure(
        name=f"cracking-{number}",
        title=title,
        source=f"Cracking the Hessian, figure {number}, section 4.3 and appendix D.1.5",
        parameters=PretrainingParameters,
        quick=_QUICK_PRETRAINING,
        points=_runs,
        position=position,
    )


FIGURES = (
    _pretraining_figure("5", "Relative error of the top GGN eigenvalue against the residual", position=5),
    Figure(
        name="cracking-6",
        title="Hessian spectra of GPT-2 with attention sinks",
        source="Cracking the Hessian, figure 6, section 4.3 and appendix D.1.6",
        parameters=SinkParameters,
        quick=_QUICK_SINKS,
        points=_sinks,
        position=6,
    ),
    _pretraining_figure("23", "Relative error of the top GGN eigenvalue against the loss", position=23),
    _pretraining_figure("24", "Relative error of the top GGN eigenvalue against loss and training step", position=24),
    _pretraining_figure("25", "Loss and relative error of the top GGN eigenvalue in pretraining", position=25),
)
