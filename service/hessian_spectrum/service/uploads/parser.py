"""Requests that arrive as uploads of arrays: bounded in size, memory and time, parsed without pickle."""

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
from hessian_spectrum.service.request_parsing import check_json
from hessian_spectrum.service.uploads.archive import npz_contents
from hessian_spectrum.service.uploads.fields import field_path, request_document
from hessian_spectrum.service.uploads.form import Part, read_parts
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npy import MAGIC, UnreadableArrayError, Value, read_npy

UPLOAD_SECONDS = 300
"""Time in which an upload must arrive; it holds memory for so long."""

MAX_TEXT_BYTES = 2**20
"""Largest part of a form that holds text or JSON instead of an array file."""

NPZ, FORM = "application/x-npz", "multipart/form-data"
UPLOAD_MEDIA_TYPES = (NPZ, FORM)


class UploadParser:
    """Parses npz archives and forms into the fields of a request.

    Args:
        max_bytes: Largest upload.
        budget: Memory that all uploads share, with the copies that are made of them.
    """

    def __init__(self, max_bytes: int, budget: MemoryBudget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget

    @asynccontextmanager
    async def parse(self, request: Request, media_type: str) -> AsyncIterator[dict[str, Any]]:
        """The fields of a request; its arrays are views of the upload and are gone after the context.

        Args:
            request: A request whose body has not been read.
            media_type: `NPZ` or `FORM`.

        Raises:
            ProblemError: 400 or 422 for a malformed upload, 408 if it takes too long, 413 if it is too large, 503 if
                other uploads take the memory.
        """
        with self._budget.reservation(request.state.principal.owner) as reservation:
            declared = request.headers.get("content-length", "")
            num_bytes = int(declared) if declared.isdecimal() else self._max_bytes
            reservation.grow(num_bytes)
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    source = await (read_body(request, num_bytes) if media_type == NPZ else read_parts(request))
            except TimeoutError:
                raise upload_too_slow() from None
            if isinstance(source, memoryview):
                yield await run_in_threadpool(_npz_document, source, reservation)
            else:
                yield await run_in_threadpool(_form_document, source, reservation)


async def read_body(request: Request, num_bytes: int) -> memoryview:
    """The body in one buffer; the system provides its memory as it arrives.

    Args:
        request: A request whose body has not been read.
        num_bytes: Largest size of the body.
    """
    body = np.empty(num_bytes, np.uint8).data
    filled = 0
    async for chunk in request.stream():
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return body[:filled]


def _npz_document(body: memoryview, reservation: Reservation) -> dict[str, Any]:
    contents = npz_contents(body, reservation)
    return request_document((path, _array(path, content, reservation)) for path, content in contents)


def _form_document(parts: list[Part], reservation: Reservation) -> dict[str, Any]:
    start, fields = None, []
    for part in parts:
        if part.name == "request":
            start = _json(part)
        else:
            path = field_path(part.name)
            fields.append((path, _part_value(path, part, reservation)))
    return request_document(fields, start)


def _array(path: tuple[str, ...], content: memoryview, reservation: Reservation) -> Value:
    try:
        return read_npy(content, reservation)
    except UnreadableArrayError as error:
        raise invalid_field(path, str(error)) from None


def _part_value(path: tuple[str, ...], part: Part, reservation: Reservation) -> Any:
    if part.content.startswith(MAGIC):
        return _array(path, memoryview(part.content), reservation)
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
    """Problem 408."""
    detail = f"The upload took longer than {UPLOAD_SECONDS} s."
    return ProblemError(Problem(type="/problems/upload-too-slow", title="Upload too slow", status=408, detail=detail))
