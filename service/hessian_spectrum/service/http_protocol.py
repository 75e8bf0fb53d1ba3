"""What becomes of connections whose callers neither send nor read on."""

import contextlib
import socket
from asyncio import TimerHandle, Transport

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0
"""In which the head of a request arrives, or the rest of a body whose request was answered before."""

UNREAD_SECONDS = 60.0
"""In which the network takes something of what waits for a caller, where the system can count it."""


class HttpProtocol(H11Protocol):
    """uvicorn's, which waits for ever for the rest of a head, and for callers to read before it closes.

    It parses in Python and keeps at most 16 KiB of a head that is not whole.
    """

    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A caller is there."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * UNREAD_SECONDS))
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or (self.cycle is not None and self.cycle.response_complete):
            self._start_clock()  # nobody can do anything before the caller sends more
        else:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP; within an answer to a request before them, only close the connection."""
        with contextlib.suppress(h11.LocalProtocolError):
            super().send_400_response(msg)
        self.transport.close()

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
