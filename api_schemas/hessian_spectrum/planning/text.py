"""Pieces in which a text is tokenised, so that its memory is that of one piece."""

import re
from collections.abc import Iterator

PIECE_LENGTH = 2**16
"""Characters after which the next boundary ends a piece."""

TOKENIZER_BYTES = 64 * 2**20
PIECE_BYTES = 400
"""Of memory for each byte of UTF-8 in a piece: 130 where text is English, 393 where every byte is a token."""

# Byte-level BPE takes white space to what follows it: no token spans this place, whatever stands around it.
_BOUNDARY = re.compile(r"(?<=\S)(?=[ \n])")


def pieces(text: str) -> Iterator[str]:
    """The text in pieces whose tokens are those of the whole; a stretch without boundary stays in one."""
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + PIECE_LENGTH)
        stop = boundary.start() if boundary else len(text)
        yield text[start:stop]
        start = stop


def tokenizer_bytes(text: str) -> int:
    """Memory that the `gpt2` tokenizer takes beside the tokens, at most."""
    return TOKENIZER_BYTES + PIECE_BYTES * max((len(piece.encode()) for piece in pieces(text)), default=0)
