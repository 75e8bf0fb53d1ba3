"""The parts of a multipart/form-data body, told apart while it arrives."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from hessian_spectrum.service.uploads.fields import MAX_FIELDS, malformed_upload

_DISPOSITION = b"content-disposition"


@dataclass
class Part:
    """One part: its name and its bytes."""

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
    """The parts of the body, whose size the caller has bounded.

    Raises:
        ProblemError: 400 if it is no complete form.
    """
    form = _Form()
    try:
        parser = _parser(request, form)
        async for chunk in request.stream():
            parser.write(chunk)
    except FormParserError:
        raise malformed_upload("The body is no multipart/form-data.") from None
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
