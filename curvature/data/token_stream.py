"""A text as one row of tokens, from which sequences are drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.data.base import Dataset
from curvature.data.text import text_windows
from curvature.errors import InvalidProblemError


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Tokens in the order of the text.

    Raises:  InvalidProblemError if they are no row of int64 of at least 0, or too few for a sequence with its targets.
    """

    tokens: Tensor  # (num_tokens,)
    sequence_length: int

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.tokens.dtype != torch.int64:
            shape = tuple(self.tokens.shape)
            raise InvalidProblemError(f"a stream is one row of int64 tokens, not {shape} {self.tokens.dtype}")
        if not 1 <= self.sequence_length < len(self.tokens):
            have = f"{len(self.tokens)} tokens hold no sequence of {self.sequence_length} with its targets"
            raise InvalidProblemError(have)
        if int(self.tokens.min()) < 0:
            raise InvalidProblemError("tokens must be at least 0")

    def to(self, device: torch.device) -> "TokenStream":
        """The same tokens on `device`."""
        return TokenStream(self.tokens.to(device), self.sequence_length)

    def windows(self, num_sequences: int, generator: torch.Generator) -> Dataset:
        """Sequences at independent uniform positions, each token's target the one after it; a CPU generator."""
        return text_windows(self.tokens, num_sequences, self.sequence_length, generator)
