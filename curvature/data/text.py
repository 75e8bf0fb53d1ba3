"""Next-token prediction on English text, without a download."""

from collections.abc import Callable
from pydoc_data.topics import topics

import torch
from torch import Tensor

from curvature.data.base import Dataset
from curvature.errors import InvalidProblemError

# Python's own documentation: its wording depends on the Python version, so provenance must name that version
NAMED_TEXTS: dict[str, Callable[[], str]] = {
    "pydoc-topics": lambda: "\n\n".join(topics[name] for name in sorted(topics))
}
VOCABULARY_SIZES = {"bytes": 256}


def named_text(name: str) -> str:
    """The text of that name.

    Raises:  InvalidProblemError if there is none.
    """
    if name not in NAMED_TEXTS:
        raise InvalidProblemError(f"text {name!r} is none of {', '.join(NAMED_TEXTS)}")
    return NAMED_TEXTS[name]()


def tokenize(text: str, tokenizer: str) -> Tensor:
    """Tokens (num_tokens,) int64; "bytes" gives those of UTF-8, 0 .. 255.

    Raises:  InvalidProblemError on an unknown tokenizer or text that UTF-8 cannot hold.
    """
    if tokenizer not in VOCABULARY_SIZES:
        raise InvalidProblemError(f"tokenizer {tokenizer!r} is none of {', '.join(VOCABULARY_SIZES)}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidProblemError("the text holds lone surrogates, which UTF-8 cannot encode") from error
    return torch.tensor(list(encoded), dtype=torch.int64)


def text_windows(tokens: Tensor, num_sequences: int, sequence_length: int, generator: torch.Generator) -> Dataset:
    """Windows at independent uniform positions; the target of a token is the token after it.

    Returns:  inputs and targets (num_sequences, sequence_length), int64.
    Raises:  InvalidProblemError on counts below 1 or fewer than sequence_length + 1 tokens.
    """
    if min(num_sequences, sequence_length) < 1:
        raise InvalidProblemError("num_sequences and sequence_length must be at least 1")
    num_starts = len(tokens) - sequence_length
    if num_starts < 1:
        needed = sequence_length + 1
        raise InvalidProblemError(f"the text has {len(tokens)} tokens, a sequence with its targets needs {needed}")
    starts = torch.randint(num_starts, (num_sequences, 1), generator=generator)
    windows = tokens[starts + torch.arange(sequence_length + 1)]
    return Dataset(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
