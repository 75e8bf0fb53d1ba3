"""Data on which a job evaluates the loss."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.artifacts import ArtifactId, StoredArray, arrays_of, listed
from hessian_spectrum.api_schemas.message import MAX_NUMBERS, RequestMessage, Rows, Seed, Vector, misfit

MAX_TEXT_LENGTH = 5_000_000

Numbers = list[float] | list[list[float]] | list[list[list[float]]]
"""One sample an entry: a number, a row of numbers, or rows of one length."""


def sample_shape(values: Numbers | StoredArray) -> tuple[int, ...]:
    """() where every sample is one number, its length where it is a row, else numbers of rows and columns."""
    if isinstance(values, StoredArray):
        return tuple(values.shape[1:])
    first = values[0]
    if not isinstance(first, Sequence):
        return ()
    return (len(first), len(first[0])) if isinstance(first[0], Sequence) else (len(first),)


def _depth(values: object) -> str:
    """How deep lists are nested, from the first entries alone."""
    depth = 0
    while isinstance(values, list) and depth < 3:
        values, depth = values[0] if values else None, depth + 1
    return ("numbers", "numbers", "rows", "sequences")[depth]


def _one_shape(sequences: list[list[list[float]]]) -> list[list[list[float]]]:
    wanted = sample_shape(sequences)
    for index, sequence in enumerate(sequences):
        if (len(sequence), len(sequence[0])) != wanted:
            have = f"{len(sequence)} rows of {len(sequence[0])} numbers"
            raise misfit(index, message=f"sequence {index} holds {have}, sequence 0 holds {wanted[0]} of {wanted[1]}")
    if len(sequences) * wanted[0] * wanted[1] > MAX_NUMBERS:
        raise misfit(message=f"more than the {MAX_NUMBERS} numbers that an array may hold")
    return sequences


Sequences = Annotated[
    list[Rows], Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True), AfterValidator(_one_shape)
]
Samples = Annotated[
    Annotated[Vector, Tag("numbers")] | Annotated[Rows, Tag("rows")] | Annotated[Sequences, Tag("sequences")],
    Discriminator(_depth),
]


class InlineData(RequestMessage):
    """Samples in the request: numbers, rows, or for attention sequences: rows of numbers, or of vectors.

    Class labels and token ids are whole numbers, -100 is ignored.
    """

    kind: Literal["inline"]
    x: Samples
    y: Samples

    @model_validator(mode="after")
    def _as_many_targets_as_inputs(self) -> Self:
        if len(self.y) != len(self.x):
            raise misfit("y", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


class GaussianData(RequestMessage):
    """x ~ N(0, input_std^2 I); y = teacher(x) + N(0, noise^2), the teacher one random layer, with a ReLU, or nothing.

    transform: `standardised` shifts and scales every column of x and y to mean 0 and variance 1 over the samples.
    `decorrelated` does so too, and makes every two columns of x, and every column of x and of y, exactly uncorrelated:
    x^T x / n = I and x^T y = 0. What is left of y is what no linear function of x explains.
    """

    kind: Literal["gaussian"]
    num_samples: int = Field(ge=1, le=10_000_000)
    input_dim: int = Field(ge=1, le=1_000_000)
    output_dim: int = Field(ge=1, le=1_000_000)
    teacher: Literal["linear", "relu", "none"] = "linear"
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the noise on y")
    input_std: float = Field(default=1.0, gt=0, description="standard deviation of x, before any transform")
    transform: Literal["none", "standardised", "decorrelated"] = "none"
    seed: Seed = 0

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


class GaussianSequences(RequestMessage):
    """Sequences of vectors x_t ~ N(0, input_std^2 I), for attention; y has the shape of x, plus N(0, noise^2).

    task: `reversal`, y_t = x_{T+1-t}; `linear`, y_t = W x_t with one random matrix W; `none`, y_t = 0.
    """

    kind: Literal["gaussian-sequences"]
    num_sequences: int = Field(ge=1, le=10_000_000)
    sequence_length: int = Field(ge=1, le=1_000_000)
    embedding_dim: int = Field(default=1, ge=1, le=65_536)
    task: Literal["reversal", "linear", "none"] = "reversal"
    noise: float = Field(default=0.0, ge=0, description="standard deviation of the noise on y")
    input_std: float = Field(default=1.0, gt=0, description="standard deviation of x")
    seed: Seed = 0


class DigitsData(RequestMessage):
    """The real 8x8 digits of scikit-learn, pixels / 16: the first `num_samples` of an order drawn from the seed.

    transform: `standardised` shifts and scales every pixel to mean 0 and variance 1 over the samples; pixels that are
    the same in all of them become 0.
    """

    kind: Literal["digits"]
    num_samples: int = Field(default=512, ge=1, le=1797)
    transform: Literal["none", "standardised"] = "none"
    seed: Seed = 0


class TextData(RequestMessage):
    """Windows of a text with the next token as target: a text that the server knows, or one in the request.

    No part of a text is a special token: `<|endoftext|>` is spelt out like any other.
    """

    kind: Literal["text"]
    name: Literal["pydoc-topics"] | None = Field(default=None, description="pydoc-topics: Python's language reference")
    text: str | None = Field(default=None, min_length=2, max_length=MAX_TEXT_LENGTH)
    tokenizer: Literal["bytes", "gpt2"] = Field(
        default="bytes", description="bytes: those of UTF-8; gpt2: the byte-level BPE of GPT-2, 50257 tokens"
    )
    num_sequences: int = Field(ge=1, le=1_000_000)
    sequence_length: int = Field(ge=1, le=1_000_000)
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_text_that_is_long_enough(self) -> Self:
        if (self.name is None) == (self.text is None):
            raise misfit("text", message="give either the name of a text or a text")
        # no tokenizer makes more tokens than there are bytes; gpt2 makes fewer, which the worker sees
        if self.text is not None and len(self.text.encode()) <= self.sequence_length:
            raise misfit("text", message=f"the text has no more than sequence_length = {self.sequence_length} bytes")
        return self


class TokenData(RequestMessage):
    """Windows of uploaded tokens with the next token as target, at positions drawn from the seed."""

    kind: Literal["artifact"]
    id: ArtifactId
    num_sequences: int = Field(ge=1, le=1_000_000)
    sequence_length: int = Field(ge=1, le=1_000_000)
    seed: Seed = 0


MAX_SAMPLE_DIMENSIONS = 3


class ArrayData(RequestMessage):
    """Samples in an uploaded npz or safetensors file that holds the arrays x and y, as `inline` has them.

    What x and y are is filled in from the file; where it is given, it must agree.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["kind", "id"]})

    kind: Literal["artifact"]
    id: ArtifactId
    x: StoredArray
    y: StoredArray

    @model_validator(mode="before")
    @classmethod
    def _with_arrays(cls, fields: Any, info: ValidationInfo) -> Any:
        arrays = arrays_of(fields, info)
        if arrays is None:
            return fields
        if arrays.keys() != {"x", "y"}:
            raise misfit("id", message=f"holds {listed(arrays)}; data are the arrays x and y")
        known = {name: array.model_dump() for name, array in arrays.items()}
        for name, array in known.items():
            if fields.get(name) not in (None, array):
                raise misfit(name, message="the artifact holds another array; it may be left out")
        return fields | known

    @model_validator(mode="after")
    def _samples_with_targets(self) -> Self:
        for name, array in (("x", self.x), ("y", self.y)):
            if len(array.shape) > MAX_SAMPLE_DIMENSIONS:
                raise misfit(
                    "id",
                    message=f"{name} has {len(array.shape)} dimensions; samples are numbers, rows or sequences of rows",
                )
        if len(self.y) != len(self.x):
            raise misfit("id", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


def _tokens_or_arrays(fields: object) -> str:
    windows = ("num_sequences", "sequence_length")
    has = any(name in fields for name in windows) if isinstance(fields, dict) else isinstance(fields, TokenData)
    return "tokens" if has else "arrays"


UploadedData = TypeAliasType(
    "UploadedData",
    Annotated[
        Annotated[TokenData, Tag("tokens")] | Annotated[ArrayData, Tag("arrays")], Discriminator(_tokens_or_arrays)
    ],
)
SampleData = InlineData | ArrayData
"""Samples that a caller gives."""

Data = Annotated[
    InlineData | GaussianData | GaussianSequences | DigitsData | TextData | UploadedData, Field(discriminator="kind")
]


def num_samples(data: Data) -> int:
    """Samples of the data, or sequences."""
    match data:
        case InlineData() | ArrayData():
            return len(data.x)
        case GaussianSequences() | TextData() | TokenData():
            return data.num_sequences
        case GaussianData() | DigitsData():
            return data.num_samples
