"""Files as chunks of bytes for streaming uploads."""

from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

_CHUNK_BYTES = 2**20


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file, chunk by chunk."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


async def async_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """The rest of the file, chunk by chunk, as the asynchronous iterator that httpx requires."""
    for chunk in chunks(file):
        yield chunk
