"""Time limits for connections whose client neither sends nor reads, and responses that leave in one piece."""

import contextlib
import socket
import sys
from asyncio import AbstractEventLoop, TimerHandle, Transport
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hessian_spectrum.api_schemas.problem import Problem

HEAD_SECONDS = 30.0
"""Seconds within which the head of a request must arrive, or the rest of a body after an early response."""

UNREAD_SECONDS = 60.0
"""Seconds within which the network must accept some of the buffered bytes, where the system supports this limit."""

MAX_HELD_BYTES = 4096
"""Bytes of a head that are held until the body follows."""

_DETAILS = {
    HTTPStatus.BAD_REQUEST: "The bytes are no HTTP request.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "Address and header fields of a request may take at most 16 KiB.",
}


class GatheringTransport:
    """A transport that sends the head of a response together with the beginning of its body.

    uvicorn writes them one after the other, and each write is a call of the system. Bytes are held until the next
    write, at most until the event loop has run what is ready.

    Args:
        transport: The transport of the connection.
        loop: Its event loop.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Hold the data if there is nothing to send with them, or send them with what was held."""
        if not data:
            return
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif len(data) > MAX_HELD_BYTES:
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HttpProtocol(H11Protocol):
    """The HTTP protocol of uvicorn, with time limits.

    uvicorn waits without limit for the rest of a head, and for clients to read before it closes. The parser is written
    in Python and keeps at most 16 KiB of an incomplete head.
    """

    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the time limit of a new connection."""
        super().connection_made(cast(Transport, GatheringTransport(transport, self.loop)))
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * UNREAD_SECONDS))
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Parse bytes that the client sent."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or (self.cycle is not None and self.cycle.response_complete):
            self._start_clock()  # nothing happens before the client sends more
        else:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit of a closed connection."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, or a head that is too long, with a problem.

        During the response to an earlier request, only the connection is closed.

        Args:
            msg: What uvicorn would answer; not used.
        """
        too_long = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        is_too_long = getattr(sys.exception(), "error_status_hint", None) == too_long  # h11 says it beside the error
        status = too_long if is_too_long else HTTPStatus.BAD_REQUEST
        body = Problem(title=status.phrase, status=status, detail=_DETAILS[status]).model_dump_json(exclude_none=True)
        headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body)), "Connection": "close"}
        response = h11.Response(status_code=status, headers=list(headers.items()), reason=status.phrase)
        with contextlib.suppress(h11.LocalProtocolError):
            for event in (response, h11.Data(data=body.encode()), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
