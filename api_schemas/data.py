"""Data on which a job evaluates the loss."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from api_schemas.message import RequestMessage, Seed, VectorOrRows, misfit

MAX_TEXT_LENGTH = 5_000_000


class InlineData(RequestMessage):
    """Samples in the request: numbers or rows; class labels and token ids are whole numbers, -100 is ignored."""

    kind: Literal["inline"]
    x: VectorOrRows
    y: VectorOrRows

    @model_validator(mode="after")
    def _as_many_targets_as_inputs(self) -> Self:
        if len(self.y) != len(self.x):
            raise misfit("y", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


class GaussianData(RequestMessage):
    """x ~ N(0, I); y = teacher(x) + N(0, noise^2), the teacher one random layer, linear or followed by a ReLU."""

    kind: Literal["gaussian"]
    num_samples: int = Field(ge=1, le=10_000_000)
    input_dim: int = Field(ge=1, le=1_000_000)
    output_dim: int = Field(ge=1, le=1_000_000)
    teacher: Literal["linear", "relu"] = "linear"
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the noise on y")
    seed: Seed = 0


class DigitsData(RequestMessage):
    """The real 8x8 digits of scikit-learn, pixels / 16: the first `num_samples` of an order drawn from the seed."""

    kind: Literal["digits"]
    num_samples: int = Field(default=512, ge=1, le=1797)
    seed: Seed = 0


class TextData(RequestMessage):
    """Windows of a text with the next token as target: a text that the server knows, or one in the request."""

    kind: Literal["text"]
    name: Literal["pydoc-topics"] | None = Field(default=None, description="pydoc-topics: Python's language reference")
    text: str | None = Field(default=None, min_length=2, max_length=MAX_TEXT_LENGTH)
    tokenizer: Literal["bytes"] = "bytes"
    num_sequences: int = Field(ge=1, le=1_000_000)
    sequence_length: int = Field(ge=1, le=1_000_000)
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_text_that_is_long_enough(self) -> Self:
        if (self.name is None) == (self.text is None):
            raise misfit("text", message="give either the name of a text or a text")
        if self.text is not None and len(self.text.encode()) <= self.sequence_length:
            raise misfit("text", message=f"the text has no more than sequence_length = {self.sequence_length} bytes")
        return self


Data = Annotated[InlineData | GaussianData | DigitsData | TextData, Field(discriminator="kind")]
