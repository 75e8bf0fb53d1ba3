"""Gaussian inputs with the noisy answers of a random teacher."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage, check_widths
from hessian_spectrum.api_schemas.losses import AnyLoss, kind_of_loss
from hessian_spectrum.api_schemas.message import Seed, misfit
from hessian_spectrum.api_schemas.models import Model, kind_of
from hessian_spectrum.api_schemas.models.kind import fields_of


class GaussianData(DataMessage):
    """Gaussian inputs x ~ N(0, input_std^2 I) with targets y = teacher(x) + N(0, noise^2).

    The teacher is one random layer, one with a ReLU, or zero.

    The transform `standardised` shifts and scales every column of x and y to mean 0 and variance 1 over the samples;
    `decorrelated` does so too, and makes every two columns of x, and every column of x and of y, exactly uncorrelated:
    x^T x / n = I and x^T y = 0. What is left of y is what no linear function of x explains.
    """

    kind: Literal["gaussian"]
    num_samples: int = Field(ge=1, le=10_000_000, description="Number of pairs (x, y) that are drawn.")
    input_dim: int = Field(ge=1, le=1_000_000, description="Number of entries of each input x.")
    output_dim: int = Field(ge=1, le=1_000_000, description="Number of entries of each target y.")
    teacher: Literal["linear", "relu", "none"] = Field(
        default="linear",
        description="Map from x to the mean of y: a random linear layer, one followed by a ReLU, or zero.",
    )
    teacher_scale: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Scale of the teacher: the entries of its matrix have the standard deviation "
        "teacher_scale / sqrt(input_dim).",
    )
    teacher_seed: Seed | None = Field(
        default=None,
        description="The seed of the teacher, so that data of several seeds have one teacher; null means the seed "
        "of the data.",
    )
    noise: float = Field(default=0.1, ge=0, description="The standard deviation of the noise on y.")
    input_std: float = Field(default=1.0, gt=0, description="The standard deviation of x, before any transform.")
    transform: Literal["none", "standardised", "decorrelated"] = Field(
        default="none", description="Transformation of x and y after they are drawn."
    )
    seed: Seed = Field(default=0, description="Seed of the inputs, the teacher and the noise.")

    @model_validator(mode="after")
    def _samples_can_be_transformed(self) -> Self:
        if self.transform == "none":
            return self
        needed = 2 if self.transform == "standardised" else self.input_dim + 2
        if self.num_samples < needed:
            raise misfit("num_samples", message=f"{self.transform} data of this input_dim need {needed} samples")
        if self.noise == 0 and self.teacher == "none":
            raise misfit("noise", message="without teacher and noise y is 0, and has no variance")
        if self.noise == 0 and self.teacher == "linear" and self.transform == "decorrelated":
            raise misfit(
                "noise", message="without noise a linear teacher's y is not uncorrelated with x, but given by it"
            )
        return self


class GaussianSequences(DataMessage):
    """Sequences of Gaussian vectors x_t ~ N(0, input_std^2 I) for attention, with targets of the same shape.

    The task `reversal` has y_t = x_{T+1-t}, `linear` y_t = W x_t with one random matrix W, and `none` y_t = 0; noise
    N(0, noise^2) is added to every target.
    """

    kind: Literal["gaussian-sequences"]
    num_sequences: int = Field(ge=1, le=10_000_000, description="Number of sequences that are drawn.")
    sequence_length: int = Field(ge=1, le=1_000_000, description="Number of positions in each sequence.")
    embedding_dim: int = Field(
        default=1, ge=1, le=65_536, description="Number of entries of the vector at each position."
    )
    task: Literal["reversal", "linear", "none"] = Field(
        default="reversal",
        description="Map from x to the mean of y: the reversed sequence, a linear map of each vector, or zero.",
    )
    noise: float = Field(default=0.0, ge=0, description="The standard deviation of the noise on y.")
    input_std: float = Field(default=1.0, gt=0, description="The standard deviation of x.")
    seed: Seed = Field(default=0, description="Seed of the inputs, the teacher and the noise.")


def _check_vectors(model: Model, data: GaussianData, loss: AnyLoss | None) -> None:
    kind = kind_of(model)
    assert kind.widths is not None
    assert loss is not None
    needed = (data.input_dim, kind_of_loss(loss).outputs_per_target * data.output_dim)
    if kind.width_locations is not None:
        check_widths(model, needed, "gaussian data")
    factor = kind_of_loss(loss).outputs_per_target
    for name, ours, theirs in zip(("input_dim", "output_dim"), needed, kind.widths(model), strict=True):
        if ours != theirs:
            own = f"{factor} outputs for each of {data.output_dim}" if name == "output_dim" and factor > 1 else ours
            raise misfit("data", name, message=f"{name} is {own}, {model.kind} has {theirs} with these fields")


def _check_sequences(model: Model, data: GaussianSequences, loss: AnyLoss | None) -> None:
    widths = kind_of(model).widths
    assert widths is not None
    num_inputs, num_outputs = widths(model)
    if data.embedding_dim != num_inputs:
        message = f"embedding_dim is {data.embedding_dim}, that of the model {num_inputs}"
        raise misfit("data", "embedding_dim", message=message)
    if num_outputs != num_inputs:
        raise misfit(
            "model", "value_dim", message=f"targets of gaussian-sequences have {num_inputs} numbers a position"
        )


def _engine_arguments(data: GaussianData) -> dict[str, Any]:
    """Return the fields but the teacher's seed, of which the engine receives the generator."""
    return {name: value for name, value in fields_of(data).items() if name != "teacher_seed"}


def _num_numbers(data: GaussianData) -> int:
    """Return how many numbers the teacher, the inputs, the answers and the targets have together."""
    return data.input_dim * data.output_dim + data.num_samples * (data.input_dim + 2 * data.output_dim)


def _num_sequence_numbers(data: GaussianSequences) -> int:
    positions = data.num_sequences * data.sequence_length
    return data.embedding_dim**2 + 3 * positions * data.embedding_dim


KINDS = (
    DataKind(
        GaussianData,
        num_samples=lambda data: data.num_samples,
        num_numbers=_num_numbers,
        engine_arguments=_engine_arguments,
        checks={"vectors": _check_vectors},
        targets="numbers",
        example={
            "model": {"kind": "mlp", "widths": [3, 4, 2], "activation": "tanh"},
            "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
            "loss": "mse",
        },
        position=2,
    ),
    DataKind(
        GaussianSequences,
        num_samples=lambda data: data.num_sequences,
        num_numbers=_num_sequence_numbers,
        sequence_length=lambda data: data.sequence_length,
        checks={"sequences": _check_sequences},
        targets="numbers",
        example={
            "model": {"kind": "attention-layer", "embedding_dim": 2, "key_dim": 2},
            "data": {"kind": "gaussian-sequences", "num_sequences": 3, "sequence_length": 4, "embedding_dim": 2},
        },
        position=3,
    ),
)
