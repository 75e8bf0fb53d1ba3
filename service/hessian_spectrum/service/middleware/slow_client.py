"""Time limits for clients that stop sending their request or stop reading the response."""

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.middleware.time_limit import within
from hessian_spectrum.service.problems import ProblemError

BODY_SECONDS = 60.0
"""Seconds within which the body of a request that is not an upload must arrive."""

CHUNK_BYTES = 2**18
"""Bytes of a response that are handed to the server at once; the rest waits until the client has read them."""

CHUNK_SECONDS = 30.0
"""Seconds within which the network must take a chunk of a response."""

_logger = logging.getLogger(__name__)


class SlowClient:
    """Ends requests whose client does not send or does not read; their slots and buffers are freed.

    A body that takes longer than `BODY_SECONDS` is answered with 408. A response leaves in chunks; a client that does
    not read one for `CHUNK_SECONDS` is disconnected.

    Args:
        app: The application behind this middleware.
        is_upload: Whether a request, by its scope, is an upload; uploads have a time limit of their own.
    """

    def __init__(self, app: ASGIApp, *, is_upload: Callable[[Scope], bool]) -> None:
        self._app = app
        self._is_upload = is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; give up on a client that does not read the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = ChunkedSender(send)
        try:
            await self._app(scope, receive if self._is_upload(scope) else _with_deadline(receive), sender.send)
        except Exception:
            if not sender.is_timed_out:
                raise
            _logger.info("a client did not read its response and is disconnected")


class ChunkedSender:
    """Sends one response in chunks, each within `CHUNK_SECONDS`.

    Attributes:
        is_timed_out: Whether the client did not read a chunk in time.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_timed_out = False

    async def send(self, message: Message) -> None:
        """Send a message, a large body in several.

        Raises:
            TimeoutError: The client does not read.
        """
        body = message.get("body", b"")
        if len(body) <= CHUNK_BYTES:
            await self._send_in_time(message)
            return
        view = memoryview(body).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            end = start + CHUNK_BYTES
            more = end < len(view) or message.get("more_body", False)
            await self._send_in_time({"type": message["type"], "body": bytes(view[start:end]), "more_body": more})

    async def _send_in_time(self, message: Message) -> None:
        try:
            await within(asyncio.get_running_loop().time() + CHUNK_SECONDS, self._send(message))
        except TimeoutError:
            self.is_timed_out = True
            raise


def _with_deadline(receive: Receive) -> Receive:
    """Return a `receive` that raises ProblemError 408 if the body is not complete within `BODY_SECONDS` from now."""
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    is_complete = False

    async def receive_in_time() -> Message:
        nonlocal is_complete
        if is_complete:
            return await receive()
        try:
            message = await within(deadline, receive())
        except TimeoutError:
            raise _too_slow() from None
        is_complete = not message.get("more_body", False)
        return message

    return receive_in_time


def _too_slow() -> ProblemError:
    detail = f"The body took longer than {BODY_SECONDS:g} s."
    return ProblemError(Problem(type="/problems/body-too-slow", title="Body too slow", status=408, detail=detail))
