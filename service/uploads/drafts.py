"""Files that are written to disk as they arrive."""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api_schemas.problem import Problem
from jobs.disk import require_room
from service.problems import ProblemError
from service.uploads.callers_artifacts import CallersArtifacts
from service.uploads.desk import UPLOAD_SECONDS, upload_too_slow

_PIECE_BYTES = 2**20


@asynccontextmanager
async def received(request: Request, store: CallersArtifacts) -> AsyncIterator[BinaryIO]:
    """The body as a file on the disk of the artifacts, gone after the context.

    Raises:  ProblemError: 408, 507, also if the disk is full within the context.
    """
    with _room_on_disk(), store.draft() as file:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await _receive(request, file)
        except TimeoutError:
            raise upload_too_slow() from None
        yield file


@contextmanager
def _room_on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _storage_full() from None


def _storage_full() -> ProblemError:
    title = "The server's disk is full"
    return ProblemError(Problem(type="/problems/storage-full", title=title, status=507))


async def _receive(request: Request, file: BinaryIO) -> None:
    piece = bytearray()
    async for chunk in request.stream():
        piece += chunk
        if len(piece) >= _PIECE_BYTES:
            await run_in_threadpool(_write, file, piece)
            piece = bytearray()
    await run_in_threadpool(_write, file, piece)
    await run_in_threadpool(file.flush)


def _write(file: BinaryIO, piece: bytearray) -> None:
    require_room(file.fileno(), len(piece))
    file.write(piece)
