"""What becomes of bytes that are no request yet: a bound on what is kept of a head, and on how long it may take."""

from asyncio import TimerHandle, Transport
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem
from service.doors.page_headers import PAGE_HEADERS

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's target and headers, and of the trailers of its body."""

HEAD_SECONDS: Final = 30.0
"""In which a head arrives, or the rest of a body whose request was answered before."""

_HEADER_BYTES = 32
"""That a header takes beside its text, as HTTP/2 counts."""

_NO_REQUEST = Problem(
    type="/problems/no-request",
    title="No HTTP request",
    status=400,
    detail=f"HTTP/1.1 is understood here, with heads of up to {MAX_HEAD_BYTES // 1024} KiB.",
)


class HeadTooLargeError(Exception):
    """The head of a request, or its trailers; the parser answers 400 to whatever its callbacks raise."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's parser in C: with the one in Python, a short request takes half as long again.

    It keeps a header until it is whole, and all headers until the last one, so both are counted here.
    """

    _num_kept = 0  # bytes of the head that were received
    _num_unparsed = 0  # bytes since the last part of a request was whole
    _is_in_head = True
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A caller is there."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self.transport.is_closing():
            return
        if self._num_unparsed > MAX_HEAD_BYTES:
            self.send_400_response("")
            return
        self._num_unparsed += len(data)
        super().data_received(data)
        if self._is_in_head or self.cycle.response_complete:  # nobody can do anything before the caller sends more
            self._start_clock()
        else:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request, with a problem as everywhere, and close the connection."""
        body = _NO_REQUEST.model_dump_json(exclude_none=True).encode()
        headers = {"Content-Type": PROBLEM_MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
        lines = ["HTTP/1.1 400 Bad Request", *(f"{name}: {text}" for name, text in (PAGE_HEADERS | headers).items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._is_in_head, self._num_kept = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._keep(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._keep(len(name) + len(value) + _HEADER_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The end of the head."""
        self._num_unparsed, self._is_in_head = 0, False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._num_unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the request."""
        self._num_unparsed = 0
        super().on_message_complete()

    def _keep(self, num_bytes: int) -> None:
        self._num_unparsed = 0
        self._num_kept += num_bytes
        if self._num_kept > MAX_HEAD_BYTES:
            raise HeadTooLargeError

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
