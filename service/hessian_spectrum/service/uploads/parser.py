"""Requests that arrive as uploads of arrays: bounded in size, memory and time, parsed without pickle."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.api_schemas.closed_form import FIELD_PATHS
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError, invalid_field, malformed_upload
from hessian_spectrum.service.request_parsing import check_json
from hessian_spectrum.service.uploads.file_kinds import NPZ
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npz import NPY_MAGIC, UnreadableArrayError, Value, npz_contents, read_npy
from hessian_spectrum.service.validation_errors import unknown_name

UPLOAD_SECONDS = 300
"""Seconds within which an upload must arrive, as it holds memory for that long."""

MAX_TEXT_BYTES = 2**20
"""Largest size in bytes of a part that holds text or JSON instead of an array file."""

FORM = "multipart/form-data"
UPLOAD_MEDIA_TYPES = (NPZ, FORM)

MAX_FIELDS = 32
"""Largest number of fields of a form, more than any request has."""

_DOTTED_PATHS = {".".join(path): path for path in FIELD_PATHS.values()}
_MAX_NAME_LENGTH = 64
_DISPOSITION = b"content-disposition"


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
        """Parse an upload.

        Args:
            request: A request whose body has not been read.
            media_type: `NPZ` or `FORM`.

        Yields:
            The fields of the request; its arrays are views of the upload and are gone after the context.

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
    """Read the body into one buffer, whose memory the system provides as it arrives.

    Args:
        request: A request whose body has not been read.
        num_bytes: Largest size of the body.

    Returns:
        The part of the buffer that is filled.
    """
    body = np.empty(num_bytes, np.uint8).data
    filled = 0
    async for chunk in request.stream():
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return body[:filled]


def _npz_document(body: memoryview, reservation: Reservation) -> dict[str, Any]:
    contents = npz_contents(body, reservation, path_of=field_path, max_members=MAX_FIELDS)
    return request_document((path, _array(path, content, reservation)) for path, content in contents)


def _form_document(parts: "list[Part]", reservation: Reservation) -> dict[str, Any]:
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


def _part_value(path: tuple[str, ...], part: "Part", reservation: Reservation) -> Any:
    if part.content.startswith(NPY_MAGIC):
        return _array(path, memoryview(part.content), reservation)
    if len(part.content) > MAX_TEXT_BYTES:
        raise invalid_field(path, f"has more than {MAX_TEXT_BYTES} bytes; send it as a .npy file")
    check_json(bytes(part.content))
    try:
        return from_json(bytes(part.content))
    except ValueError:
        return part.content.decode("utf-8", "replace").strip()


def _json(part: "Part") -> Any:
    if len(part.content) > MAX_TEXT_BYTES:
        raise invalid_field(("request",), f"has more than {MAX_TEXT_BYTES} bytes; send the arrays as .npy files")
    check_json(bytes(part.content))
    try:
        return from_json(bytes(part.content))
    except ValueError as error:
        raise invalid_field(("request",), f"is not JSON: {error!s:.100}") from None


def upload_too_slow() -> ProblemError:
    """Return problem 408 for an upload that took too long."""
    detail = f"The upload took longer than {UPLOAD_SECONDS} s."
    return ProblemError(Problem(type="/problems/upload-too-slow", title="Upload too slow", status=408, detail=detail))


def field_path(name: str) -> tuple[str, ...]:
    """Find the place of a field in the request; `w` and `model.w` are the same field.

    Args:
        name: The name of a member of the archive or of a part of the form.

    Returns:
        The names on the way to the field, outermost first.

    Raises:
        ProblemError: 422 if there is none of this name.
    """
    path = FIELD_PATHS.get(name) or _DOTTED_PATHS.get(name)
    if path is None:
        raise invalid_field((name[:_MAX_NAME_LENGTH],), unknown_name("field", name, FIELD_PATHS))
    return path


def request_document(fields: Iterable[tuple[tuple[str, ...], Any]], start: Any = None) -> dict[str, Any]:
    """Nest fields by their paths.

    Args:
        fields: Path and value of each field.
        start: The part of the request that came as JSON; None without one.

    Returns:
        The document of the whole request.

    Raises:
        ProblemError: 422 if a field is given twice.
    """
    document = _copied(start)
    for path, value in fields:
        *parents, name = path
        node = document
        for parent in parents:
            node = node.setdefault(parent, {})
        if not isinstance(node, dict) or name in node:
            raise invalid_field(path, "is given twice")
        node[name] = value
    return document


def _copied(start: Any) -> dict[str, Any]:
    if start is None:
        return {}
    if not isinstance(start, dict):
        raise invalid_field(("request",), "must be a JSON object")
    return {name: dict(value) if isinstance(value, dict) else value for name, value in start.items()}


@dataclass
class Part:
    """A part of a form: its name and its bytes."""

    name: str
    content: bytearray = field(default_factory=bytearray)


class _Form:
    """Collects parts from the callbacks of the parser."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._header, self._value = bytearray(), bytearray()
        self._name: str | None = None

    def begin_part(self) -> None:
        if len(self.parts) == MAX_FIELDS:
            raise malformed_upload(f"The form has more than {MAX_FIELDS} parts.")
        self._name = None

    def begin_header(self) -> None:
        self._header, self._value = bytearray(), bytearray()

    def extend_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def extend_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._header.lower() == _DISPOSITION:
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")

    def end_headers(self) -> None:
        if not self._name:
            raise malformed_upload("A part of the form has no name.")
        self.parts.append(Part(self._name))

    def extend_part(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content += memoryview(data)[start:end]

    def end(self) -> None:
        self.is_complete = True


async def read_parts(request: Request) -> list[Part]:
    """Read a body of multipart/form-data, whose size the caller has bounded.

    Args:
        request: A request whose body has not been read.

    Returns:
        The parts in the order of the form.

    Raises:
        ProblemError: 400 if it is not a complete form.
    """
    form = _Form()
    try:
        parser = _parser(request, form)
        async for chunk in request.stream():
            parser.write(chunk)
    except FormParserError:
        raise malformed_upload("The body is not multipart/form-data.") from None
    if not form.is_complete:
        raise malformed_upload("The form ends before its last boundary.")
    return form.parts


def _parser(request: Request, form: _Form) -> MultipartParser:
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    if not boundary:
        raise malformed_upload("The Content-Type names no boundary.")
    callbacks = {
        "on_part_begin": form.begin_part,
        "on_header_begin": form.begin_header,
        "on_header_field": form.extend_header,
        "on_header_value": form.extend_value,
        "on_header_end": form.end_header,
        "on_headers_finished": form.end_headers,
        "on_part_data": form.extend_part,
        "on_end": form.end,
    }
    return MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
