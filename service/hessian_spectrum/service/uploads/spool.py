"""Bodies that are spooled to disk as they arrive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.service.uploads.parser import UPLOAD_SECONDS, upload_too_slow
from hessian_spectrum.storage.blob_store import require_room

_BUFFER_BYTES = 2**20


@asynccontextmanager
async def spooled(request: Request, artifacts: ArtifactService) -> AsyncIterator[BinaryIO]:
    """The body as a file on the disk of the artifacts; the file is removed after the context.

    Raises:
        ProblemError: 408 if the upload takes too long.
        OSError: The file cannot be written, for example because the disk is full.
    """
    with artifacts.draft() as file:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await _receive(request, file)
        except TimeoutError:
            raise upload_too_slow() from None
        yield file


async def _receive(request: Request, file: BinaryIO) -> None:
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            await run_in_threadpool(_write, file, buffer)
            buffer = bytearray()
    await run_in_threadpool(_write, file, buffer)
    await run_in_threadpool(file.flush)


def _write(file: BinaryIO, content: bytearray) -> None:
    require_room(file.fileno(), len(content))
    file.write(content)
