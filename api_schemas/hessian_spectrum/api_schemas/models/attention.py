"""Single layers of self-attention, of vectors and of numbers."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import AnyNumbers, ArrayVector, Seed, check_shape, shape
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage, Shapes
from hessian_spectrum.planning.size import Size, attention_size

DECIMAL_COST = 64
"""Time of an attention score in decimal arithmetic, relative to that of one derived number."""


class AttentionLayer(ModelMessage):
    """A layer of self-attention on sequences x of vectors.

    f(x) = A(x) x W_V with A = activation(x W_Q W_K^T x^T / sqrt(key_dim) + sink).
    With embedding_dim = value_dim = 1 it is `self-attention`, at random weights.
    """

    kind: Literal["attention-layer"]
    embedding_dim: int = Field(
        default=1, ge=1, le=65_536, description="The dimension d: how many numbers each position of x has."
    )
    key_dim: int = Field(ge=1, le=65_536, description="The key dimension d_K: the number of columns of W_Q and W_K.")
    value_dim: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="How many numbers each position of f(x) has; null means embedding_dim.",
    )
    sink_bias: float = Field(default=0.0, description="A number that is added to every score of the first position.")
    activation: Literal["softmax", "sigmoid", "linear"] = Field(
        default="softmax", description="Function that turns the scores of each position into attention weights."
    )
    initial_std: float = Field(default=0.1, ge=0, description="The standard deviation of the normal initial weights.")
    seed: Seed = Field(default=0, description="Seed of the random weights.")

    def settled(self) -> Mapping[str, Any]:
        """Return how many numbers f(x) has at each position, which is the embedding dimension by default."""
        return {"value_dim": self.num_outputs}

    @property
    def num_outputs(self) -> int:
        """Number of numbers that f(x) has at each position."""
        return self.value_dim or self.embedding_dim


class SelfAttention(ModelMessage):
    """A layer of self-attention on sequences x of scalars.

    f(x) = w_v A(x) x with A = activation(x <w_q, w_k> x^T / sqrt(d_K) + sink).
    """

    kind: Literal["self-attention"]
    w_v: float = Field(description="The value weight, a single number.")
    w_q: ArrayVector = Field(description="The query weights, a vector of length d_K.")
    w_k: ArrayVector = Field(description="The key weights, a vector of length d_K.")
    sink_bias: float = Field(
        0.0, description="A number that is added to every score of the first position, before the activation."
    )
    activation: Literal["softmax", "sigmoid", "linear"] = Field(
        default="softmax", description="Function that turns the scores of each position into attention weights."
    )

    @model_validator(mode="after")
    def _one_key_dimension(self) -> Self:
        check_shape("w_k", shape(self.w_k), other="w_q", needed=shape(self.w_q))
        return self


def _layer_shapes(model: AttentionLayer) -> Shapes:
    d, key = model.embedding_dim, (model.embedding_dim, model.key_dim)
    return {"W_V": (d, model.num_outputs), "W_Q": key, "W_K": key}


def _layer_size(model: AttentionLayer, num_samples: int, length: int) -> Size:
    return attention_size(
        embedding_dim=model.embedding_dim,
        key_dim=model.key_dim,
        value_dim=model.num_outputs,
        num_sequences=num_samples,
        sequence_length=length,
    )


def _layer_arguments(model: AttentionLayer) -> dict[str, Any]:
    return {
        "embedding_dim": model.embedding_dim,
        "key_dim": model.key_dim,
        "value_dim": model.num_outputs,
        "sink_bias": model.sink_bias,
        "activation": model.activation,
        "initial_std": model.initial_std,
    }


def _scalar_shapes(model: SelfAttention) -> Shapes:
    return {"w_v": (), "w_q": (len(model.w_q),), "w_k": (len(model.w_k),)}


def _scalar_size(model: SelfAttention, num_samples: int, length: int) -> Size:
    return attention_size(
        embedding_dim=1, key_dim=len(model.w_q), value_dim=1, num_sequences=num_samples, sequence_length=length
    )


def num_scores(x: AnyNumbers) -> int:
    """Return the number n L^2 of attention scores of sequences of numbers (n, L)."""
    num_sequences, length = shape(x)
    return num_sequences * length**2


_WEIGHTS = {"kind": "self-attention", "w_v": 0.9, "w_q": [0.3, -0.2], "w_k": [0.1, 0.4], "sink_bias": 2.0}
_SEQUENCES = {"x": [[1.0, -0.5, 2.0], [0.3, 0.7, -1.0]], "y": [[0.8, 0.1, 1.5], [0.0, 0.5, -0.5]]}

KINDS = (
    ModelKind(
        AttentionLayer,
        _layer_shapes,
        _layer_size,
        example={
            "model": {"kind": "attention-layer", "embedding_dim": 2, "key_dim": 2},
            "data": {"kind": "gaussian-sequences", "num_sequences": 3, "sequence_length": 4, "embedding_dim": 2},
        },
        samples="sequences",
        widths=lambda model: (model.embedding_dim, model.num_outputs),
        only_loss="mse",
        engine_arguments=_layer_arguments,
        position=3,
    ),
    ModelKind(
        SelfAttention,
        _scalar_shapes,
        _scalar_size,
        example={"model": _WEIGHTS, "data": {"kind": "inline"} | _SEQUENCES},
        samples="sequences",
        widths=lambda _: (1, 1),
        only_loss="mse",
        engine_arguments=lambda model: {
            "key_dim": len(model.w_q),
            "sink_bias": model.sink_bias,
            "activation": model.activation,
        },
        given_weights=lambda model: {"w_v": model.w_v, "w_q": model.w_q, "w_k": model.w_k},
        position=13,
    ),
)
FAMILIES = (
    ClosedFormFamily(
        SelfAttention,
        example={"model": _WEIGHTS, "data": _SEQUENCES},
        samples="sequences",
        num_derived=lambda _, x: DECIMAL_COST * num_scores(x),
        position=13,
    ),
)
