"""One layer of single-head self-attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor

from hessian_spectrum.curvature.models.activations import Activation
from hessian_spectrum.curvature.models.base import Model, check_real_inputs
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.planning.size import Size, attention_size
from hessian_spectrum.quadrature.errors import InvalidProblemError

SCORE_ACTIVATIONS: dict[str, Activation] = {
    "softmax": lambda scores: scores.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "linear": lambda scores: scores,
}
"""Maps of scores (..., L, L) to attention weights; softmax is taken over the keys, the last axis."""


@dataclass(frozen=True)
class AttentionLayer(Model):
    """f(x) = A(x) x W_V with A = activation(x W_Q W_K^T x^T / sqrt(d_K) + sink), for sequences x (L, d) of any length.

    The sink adds `sink_bias` to every score of the first position, as key. For d = d_V = 1 this is the closed form
    `self-attention`.

    Args:
        embedding_dim: D, key_dim d_K, value_dim d_V.
        activation: One of `SCORE_ACTIVATIONS`.
        initial_std: > 0.
    Parameters:  "W_V" (d, d_V), "W_Q" and "W_K" (d, d_K).

    Raises:
        InvalidProblemError: On counts below 1, an unknown activation, or a bias or deviation that is no number.

    References:
        Cracking the Hessian, section 3.3 and appendix D.2, whose initial standard deviation is the default.
    """

    embedding_dim: int
    key_dim: int
    value_dim: int
    sink_bias: float = 0.0
    activation: str = "softmax"
    initial_std: float = 0.1

    def __post_init__(self) -> None:
        if min(self.embedding_dim, self.key_dim, self.value_dim) < 1:
            raise InvalidProblemError("every dimension of an attention layer must be at least 1")
        if self.activation not in SCORE_ACTIVATIONS:
            raise InvalidProblemError(f"activation {self.activation!r} is none of {', '.join(SCORE_ACTIVATIONS)}")
        if not (isfinite(self.sink_bias) and isfinite(self.initial_std) and self.initial_std >= 0):
            raise InvalidProblemError(f"sink bias {self.sink_bias}, initial standard deviation {self.initial_std}")

    @property
    def num_outputs(self) -> int:
        """d_V."""
        return self.value_dim

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Value, query, key."""
        d = self.embedding_dim
        return {"W_V": (d, self.value_dim), "W_Q": (d, self.key_dim), "W_K": (d, self.key_dim)}

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Weights N(0, initial_std^2)."""
        draw = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in self.parameter_shapes.items()}
        return {name: (self.initial_std * values).to(dtype=dtype, device=device) for name, values in draw.items()}

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are sequences (n, L, d), floating point and finite."""
        check_real_inputs(inputs, "attention", "n", "L", self.embedding_dim)

    def size_on(self, inputs: Tensor) -> Size:
        """Queries, keys, values, scores and weights."""
        return attention_size(
            embedding_dim=self.embedding_dim,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            num_sequences=inputs.shape[0],
            sequence_length=inputs.shape[1],
        )

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, L, d_V) for sequences (n, L, d)."""
        query, key = inputs @ parameters["W_Q"], inputs @ parameters["W_K"]
        scores = query @ key.transpose(-1, -2) / sqrt(self.key_dim)
        if self.sink_bias != 0:
            first = torch.arange(inputs.shape[1], device=scores.device) == 0
            scores = scores + first.to(scores.dtype) * self.sink_bias
        return SCORE_ACTIVATIONS[self.activation](scores) @ (inputs @ parameters["W_V"])


MODELS = {"attention-layer": AttentionLayer}
