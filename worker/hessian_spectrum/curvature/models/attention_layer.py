"""Single-head self-attention layer."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.base import Activation, Model, Parameters, check_real_inputs
from hessian_spectrum.planning.size import Size, attention_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

SCORE_ACTIVATIONS: dict[str, Activation] = {
    "softmax": lambda scores: scores.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "linear": lambda scores: scores,
}
"""Maps of scores (..., L, L) to attention weights; softmax is taken over the keys, the last axis."""


@dataclass(frozen=True)
class AttentionLayer(Model):
    """Self-attention f(x) = A(x) x W_V of sequences x (L, d), with A = activation(x W_Q W_K^T x^T / sqrt(d_K) + sink).

    For d = d_V = 1 this is the closed form `self-attention`. Its parameters are "W_V" (d, d_V), "W_Q" (d, d_K) and
    "W_K" (d, d_K).

    Args:
        embedding_dim: Length d of each position's vector.
        key_dim: Length d_K of queries and keys.
        value_dim: Length d_V of values.
        sink_bias: Number that is added to all scores of the first position, as key.
        activation: One of `SCORE_ACTIVATIONS`.
        initial_std: Standard deviation of initial weights, >= 0.

    Raises:
        InvalidProblemError: If a count is below 1, the activation is unknown, or the bias or the deviation is not
            finite.

    References:
        Cracking the Hessian, section 3.3 and appendix D.2, whose initial standard deviation is the default.
    """

    embedding_dim: int
    key_dim: int
    value_dim: int
    _: KW_ONLY
    sink_bias: float = 0.0
    activation: str = "softmax"
    initial_std: float = 0.1

    def __post_init__(self) -> None:
        if min(self.embedding_dim, self.key_dim, self.value_dim) < 1:
            raise InvalidProblemError("every dimension of an attention layer must be at least 1")
        if self.activation not in SCORE_ACTIVATIONS:
            raise InvalidProblemError(
                f"unknown activation {self.activation!r}: must be one of {', '.join(SCORE_ACTIVATIONS)}"
            )
        if not (isfinite(self.sink_bias) and isfinite(self.initial_std) and self.initial_std >= 0):
            raise InvalidProblemError(
                f"sink_bias must be finite, not {self.sink_bias}, and initial_std at least 0, not {self.initial_std}"
            )

    @property
    def num_outputs(self) -> int:
        """Length d_V of the outputs."""
        return self.value_dim

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the matrices of values, queries and keys."""
        d = self.embedding_dim
        return {"W_V": (d, self.value_dim), "W_Q": (d, self.key_dim), "W_K": (d, self.key_dim)}

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return weights N(0, initial_std^2)."""
        draw = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in self.parameter_shapes.items()}
        return {name: (self.initial_std * values).to(dtype=dtype, device=device) for name, values in draw.items()}

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, L, d)."""
        check_real_inputs(inputs, "attention", "n", "L", self.embedding_dim)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with queries, keys, values, scores and attention weights."""
        return attention_size(
            embedding_dim=self.embedding_dim,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            num_sequences=inputs.shape[0],
            sequence_length=inputs.shape[1],
        )

    def attention(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the attention matrices A (n, L, L), rows for queries, of sequences (n, L, d)."""
        query, key = inputs @ parameters["W_Q"], inputs @ parameters["W_K"]
        scores = query @ key.transpose(-1, -2) / sqrt(self.key_dim)
        if self.sink_bias != 0:
            first = torch.arange(inputs.shape[1], device=scores.device) == 0
            scores = scores + first.to(scores.dtype) * self.sink_bias
        return SCORE_ACTIVATIONS[self.activation](scores)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, L, d_V) for sequences (n, L, d)."""
        return self.attention(parameters, inputs) @ (inputs @ parameters["W_V"])


MODELS = {"attention-layer": AttentionLayer}
