"""Token files, written to disk as they arrive: nanoGPT's .bin, and one-dimensional .npy arrays of integers."""

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api_schemas.artifacts import Artifact
from api_schemas.problem import Problem
from jobs.artifacts import ArtifactStore, Tokens, UnfitTokensError
from service.problems import ProblemError, invalid_field
from service.uploads.desk import UPLOAD_SECONDS, upload_too_slow
from service.uploads.npy import MAGIC, MAX_HEADER_BYTES, UnreadableArrayError, read_header

BINARY, NPY = "application/octet-stream", "application/x-npy"
TOKEN_MEDIA_TYPES = (BINARY, NPY)

_PIECE_BYTES = 2**20


async def store_tokens(request: Request, store: ArtifactStore, media_type: str) -> tuple[Artifact, bool]:
    """Keep the tokens of the body: (what they are, whether they are new here).

    Raises:  ProblemError: 408, 422 for what is no file of tokens, 507.
    """
    with _room_on_disk(), store.draft() as file:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await _receive(request, file)
        except TimeoutError:
            raise upload_too_slow() from None
        return await run_in_threadpool(_stored, file, store, media_type)


@contextmanager
def _room_on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        title = "The server's disk is full"
        raise ProblemError(Problem(type="/problems/storage-full", title=title, status=507)) from None


async def _receive(request: Request, file: BinaryIO) -> None:
    piece = bytearray()
    async for chunk in request.stream():
        piece += chunk
        if len(piece) >= _PIECE_BYTES:
            await run_in_threadpool(file.write, piece)
            piece = bytearray()
    await run_in_threadpool(file.write, piece)


def _stored(file: BinaryIO, store: ArtifactStore, media_type: str) -> tuple[Artifact, bool]:
    try:
        start, dtype = _layout(file, media_type)
        return store.write(lambda: _blocks(file, start, dtype))
    except (UnreadableArrayError, UnfitTokensError) as error:
        raise invalid_field((), f"the file {error}") from None


def _layout(file: BinaryIO, media_type: str) -> tuple[int, np.dtype[Any]]:
    """Where the tokens begin, and their type.

    Raises:  UnreadableArrayError.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(MAX_HEADER_BYTES)
    if media_type == BINARY and not head.startswith(MAGIC):
        if size % 2:
            raise UnreadableArrayError(f"has {size} bytes, and tokens of a .bin file two each")
        return 0, np.dtype("<u2")
    shape, _, dtype, start = read_header(head)
    if len(shape) != 1 or type(shape[0]) is not int or dtype.kind not in "iu":
        raise UnreadableArrayError("must be an array of integers in one dimension")
    if shape[0] * dtype.itemsize != size - start:
        raise UnreadableArrayError("has not the size that its header says")
    return start, dtype


def _blocks(file: BinaryIO, start: int, dtype: np.dtype[Any]) -> Iterator[Tokens]:
    file.seek(start)
    while block := file.read(_PIECE_BYTES):
        yield np.frombuffer(block, dtype)
