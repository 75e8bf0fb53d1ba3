"""A text as one row of tokens, from which sequences are drawn."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.text import Tokens, text_windows
from hessian_spectrum.quadrature.errors import InvalidProblemError


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Tokens in the order of the text, which may be the map of a file.

    Raises:
        InvalidProblemError: If they are no row of integers of at least 0, or too few for a sequence with its targets.
    """

    tokens: Tokens  # (num_tokens,)
    sequence_length: int
    device: torch.device | None = None  # of the windows; None: the CPU

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise InvalidProblemError(f"a stream is one row of tokens, not {self.tokens.shape} {self.tokens.dtype}")
        if not 1 <= self.sequence_length < len(self.tokens):
            have = f"{len(self.tokens)} tokens hold no sequence of {self.sequence_length} with its targets"
            raise InvalidProblemError(have)
        if self.tokens.dtype.kind == "i" and int(self.tokens.min()) < 0:
            raise InvalidProblemError("tokens must be at least 0")

    @property
    def largest_token(self) -> int:
        """Of the whole text."""
        return int(np.max(self.tokens))

    def to(self, device: torch.device) -> "TokenStream":
        """The same tokens, whose windows are on `device`."""
        return replace(self, device=device)

    def windows(self, num_sequences: int, generator: torch.Generator) -> Dataset:
        """Sequences at independent uniform positions, each token's target the one after it; a CPU generator."""
        drawn = text_windows(self.tokens, num_sequences, self.sequence_length, generator)
        return drawn if self.device is None else Dataset(drawn.inputs.to(self.device), drawn.targets.to(self.device))
