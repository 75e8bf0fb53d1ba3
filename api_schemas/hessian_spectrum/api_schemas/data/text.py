"""Windows of texts and of uploaded tokens, with the next token as target."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.artifacts import ArtifactId
from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage
from hessian_spectrum.api_schemas.data.samples import check_length
from hessian_spectrum.api_schemas.losses import AnyLoss
from hessian_spectrum.api_schemas.message import Seed, misfit
from hessian_spectrum.planning.text import tokenizer_bytes

MAX_TEXT_LENGTH = 5_000_000
NUM_TOKENS = {"bytes": 256, "gpt2": 50_257}
"""Number of different tokens of each tokenizer."""


class TextData(DataMessage):
    """Windows of a text with the next token as target: a text that the server knows, or one in the request.

    No part of a text is a special token: `<|endoftext|>` is spelt out like any other.
    """

    kind: Literal["text"]
    name: Literal["pydoc-topics"] | None = Field(
        default=None, description="The name of a text that the server has: pydoc-topics is Python's language reference."
    )
    text: str | None = Field(
        default=None,
        min_length=2,
        max_length=MAX_TEXT_LENGTH,
        description="Text to tokenize instead of one that the server has.",
    )
    tokenizer: Literal["bytes", "gpt2"] = Field(
        default="bytes",
        description="How text becomes tokens: bytes are those of UTF-8, gpt2 is the byte-level BPE of GPT-2 "
        "with 50257 tokens.",
    )
    num_sequences: int = Field(ge=1, le=1_000_000, description="Number of windows that are drawn from the tokens.")
    sequence_length: int = Field(ge=1, le=1_000_000, description="Number of tokens that are predicted in each window.")
    seed: Seed = Field(default=0, description="Seed of the positions at which windows begin.")

    @model_validator(mode="after")
    def _one_text_that_is_long_enough(self) -> Self:
        if (self.name is None) == (self.text is None):
            raise misfit("text", message="give either the name of a text or a text")
        # no tokenizer makes more tokens than there are bytes; gpt2 makes fewer, which the worker sees
        if self.text is not None and len(self.text.encode()) <= self.sequence_length:
            raise misfit("text", message=f"the text has no more than sequence_length = {self.sequence_length} bytes")
        return self


class TokenData(DataMessage):
    """Windows of uploaded tokens with the next token as target, at positions drawn from the seed."""

    kind: Literal["artifact"]
    id: ArtifactId
    num_sequences: int = Field(ge=1, le=1_000_000, description="Number of windows that are drawn from the tokens.")
    sequence_length: int = Field(ge=1, le=1_000_000, description="Number of tokens that are predicted in each window.")
    seed: Seed = Field(default=0, description="Seed of the positions at which windows begin.")


def _check_text(model: Any, data: TextData, loss: AnyLoss | None) -> None:
    check_length(model, data.sequence_length, "sequence_length")
    needed = NUM_TOKENS[data.tokenizer]
    if model.vocab_size < needed:
        raise misfit("model", "vocab_size", message=f"the tokenizer {data.tokenizer} needs at least {needed}")


def _check_tokens(model: Any, data: TokenData, loss: AnyLoss | None) -> None:
    check_length(model, data.sequence_length, "sequence_length")


def _num_window_numbers(data: TextData | TokenData) -> int:
    return data.num_sequences * 2 * (data.sequence_length + 1)


def _num_text_numbers(data: TextData) -> int:
    """Return how many numbers the windows have, plus one token for each byte of a text in the request."""
    return _num_window_numbers(data) + len((data.text or "").encode())


def _tokenizer_bytes(data: TextData) -> int:
    return tokenizer_bytes(data.text or "") if data.tokenizer == "gpt2" else 0


_MODEL = {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256}

KINDS = (
    DataKind(
        TextData,
        num_samples=lambda data: data.num_sequences,
        num_numbers=_num_text_numbers,
        extra_bytes=_tokenizer_bytes,
        sequence_length=lambda data: data.sequence_length,
        checks={"tokens": _check_text},
        targets="labels",
        example={
            "model": _MODEL,
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
            "loss": "cross-entropy",
        },
        position=5,
    ),
    DataKind(
        TokenData,
        num_samples=lambda data: data.num_sequences,
        num_numbers=_num_window_numbers,
        sequence_length=lambda data: data.sequence_length,
        checks={"tokens": _check_tokens},
        targets="labels",
        example={
            "model": _MODEL,
            "data": {"kind": "artifact", "id": 64 * "0", "num_sequences": 2, "sequence_length": 8},
            "loss": "cross-entropy",
        },
        position=6,
    ),
)
