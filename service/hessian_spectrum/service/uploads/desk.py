"""Takes uploads in: bounded in size, memory and time, checked, and turned into the request that they carry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError, invalid_field
from hessian_spectrum.service.request_body import check_json
from hessian_spectrum.service.uploads.archive import npz_contents
from hessian_spectrum.service.uploads.fields import field_path, request_document
from hessian_spectrum.service.uploads.form import Part, read_parts
from hessian_spectrum.service.uploads.memory import Lease, UploadMemory
from hessian_spectrum.service.uploads.npy import MAGIC, UnreadableArrayError, Value, read_npy

UPLOAD_SECONDS = 300
"""An upload holds memory while it arrives; one that takes longer is given up."""

MAX_TEXT_BYTES = 2**20
"""Of the parts of a form that hold no array file but text or JSON, each."""

NPZ, FORM = "application/x-npz", "multipart/form-data"
UPLOAD_MEDIA_TYPES = (NPZ, FORM)


class UploadDesk:
    """Reads uploads of at most `max_bytes`, which together take at most `memory_bytes`."""

    def __init__(self, max_bytes: int, memory_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.memory = UploadMemory(memory_bytes)

    @asynccontextmanager
    async def document(self, request: Request, media_type: str) -> AsyncIterator[dict[str, Any]]:
        """The request's fields, arrays among them, which are gone after the context.

        Raises:
            ProblemError: : 400 or 422 for what is no such upload, 408, 413, 503.
        """
        with self.memory.lease(request.state.caller.owner) as lease:
            declared = request.headers.get("content-length", "")
            num_bytes = int(declared) if declared.isdecimal() else self._max_bytes
            lease.take(num_bytes)
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    source = await (whole_body(request, num_bytes) if media_type == NPZ else read_parts(request))
            except TimeoutError:
                raise upload_too_slow() from None
            if isinstance(source, memoryview):
                yield await run_in_threadpool(_npz_document, source, lease)
            else:
                yield await run_in_threadpool(_form_document, source, lease)


async def whole_body(request: Request, num_bytes: int) -> memoryview:
    """The body, of at most `num_bytes`, in one piece; memory is taken as it arrives."""
    body = np.empty(num_bytes, np.uint8).data
    filled = 0
    async for chunk in request.stream():
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return body[:filled]


def _npz_document(body: memoryview, lease: Lease) -> dict[str, Any]:
    contents = npz_contents(body, lease)
    return request_document((path, _array(path, content, lease)) for path, content in contents)


def _form_document(parts: list[Part], lease: Lease) -> dict[str, Any]:
    start, fields = None, []
    for part in parts:
        if part.name == "request":
            start = _json(part)
        else:
            path = field_path(part.name)
            fields.append((path, _part_value(path, part, lease)))
    return request_document(fields, start)


def _array(path: tuple[str, ...], content: memoryview, lease: Lease) -> Value:
    try:
        return read_npy(content, lease)
    except UnreadableArrayError as error:
        raise invalid_field(path, str(error)) from None


def _part_value(path: tuple[str, ...], part: Part, lease: Lease) -> Any:
    if part.content.startswith(MAGIC):
        return _array(path, memoryview(part.content), lease)
    if len(part.content) > MAX_TEXT_BYTES:
        raise invalid_field(path, f"has more than {MAX_TEXT_BYTES} bytes; send it as a .npy file")
    check_json(bytes(part.content))
    try:
        return from_json(bytes(part.content))
    except ValueError:
        return part.content.decode("utf-8", "replace").strip()


def _json(part: Part) -> Any:
    if len(part.content) > MAX_TEXT_BYTES:
        raise invalid_field(("request",), f"has more than {MAX_TEXT_BYTES} bytes; send the arrays as .npy files")
    check_json(bytes(part.content))
    try:
        return from_json(bytes(part.content))
    except ValueError as error:
        raise invalid_field(("request",), f"is no JSON: {error!s:.100}") from None


def upload_too_slow() -> ProblemError:
    """Error 408."""
    detail = f"The upload took longer than {UPLOAD_SECONDS} s."
    return ProblemError(Problem(type="/problems/upload-too-slow", title="Upload too slow", status=408, detail=detail))
