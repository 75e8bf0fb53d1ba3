"""Pieces in which a text is tokenised, so that its memory is that of one piece."""

import re
from collections.abc import Iterator

PIECE_LENGTH = 2**16
"""Number of characters after which the next boundary ends a piece."""

TOKENIZER_BYTES = 64 * 2**20
PIECE_BYTES = 400
"""Bytes of memory for each byte of UTF-8 in a piece: 130 for English text, 393 where every byte is a token."""

# Byte-level BPE takes white space to what follows it: no token spans this place, whatever stands around it.
_BOUNDARY = re.compile(r"(?<=\S)(?=[ \n])")


def pieces(text: str) -> Iterator[str]:
    """Yield the text in pieces whose tokens are those of the whole; a stretch without boundary stays in one piece."""
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + PIECE_LENGTH)
        stop = boundary.start() if boundary else len(text)
        yield text[start:stop]
        start = stop


def tokenizer_bytes(text: str) -> int:
    """Return the largest number of bytes that the `gpt2` tokenizer takes beside the tokens."""
    return TOKENIZER_BYTES + PIECE_BYTES * max((len(piece.encode()) for piece in pieces(text)), default=0)
