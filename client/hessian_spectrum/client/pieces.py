"""A file, piece by piece, as it is sent."""

from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

_PIECE_BYTES = 2**20


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file."""
    while piece := file.read(_PIECE_BYTES):
        yield piece


async def async_pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    """The same where httpx wants it so."""
    for piece in pieces(file):
        yield piece
