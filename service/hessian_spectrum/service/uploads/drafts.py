"""Files that are written to disk as they arrive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.service.uploads.callers_artifacts import CallersArtifacts
from hessian_spectrum.service.uploads.desk import UPLOAD_SECONDS, upload_too_slow
from hessian_spectrum.storage.disk import require_room

_PIECE_BYTES = 2**20


@asynccontextmanager
async def received(request: Request, store: CallersArtifacts) -> AsyncIterator[BinaryIO]:
    """The body as a file on the disk of the artifacts, gone after the context.

    Raises:
        ProblemError: 408.
        OSError: For one if the disk is full.
    """
    with store.draft() as file:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await _receive(request, file)
        except TimeoutError:
            raise upload_too_slow() from None
        yield file


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
