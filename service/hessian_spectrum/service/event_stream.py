"""Events of a job as server-sent events."""

import contextlib
from collections.abc import AsyncIterator, Callable

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from hessian_spectrum.jobs.events import JobEvent
from hessian_spectrum.service.job_feed import Listener

_HEARTBEAT_SECONDS = 15
"""Between comments that keep proxies from closing a silent connection."""

_SEND_SECONDS = 30.0
"""That a caller may take to read what was sent, once the buffers between are full."""

_SHUTDOWN_SECONDS = 1.5
_RETRY_MILLISECONDS = 1000


class EventStream(EventSourceResponse):
    """The answer to one listener.

    Args:
        text: The data of an event.
    """

    def __init__(self, listener: Listener, text: Callable[[JobEvent], str]) -> None:
        stopping = anyio.Event()
        super().__init__(
            _messages(listener, text, stopping),
            ping=_HEARTBEAT_SECONDS,
            sep="\n",
            send_timeout=_SEND_SECONDS,
            shutdown_event=stopping,
            shutdown_grace_period=_SHUTDOWN_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there are no more, or nobody reads them."""
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _messages(
    listener: Listener, text: Callable[[JobEvent], str], stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    async with contextlib.aclosing(listener.events(stopping)) as events:
        async for event in events:
            yield ServerSentEvent(text(event), id=event.id, retry=_RETRY_MILLISECONDS, sep="\n")
