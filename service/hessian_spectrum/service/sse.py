"""The events of a job as server-sent events."""

import contextlib
from collections.abc import AsyncIterator, Callable

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from hessian_spectrum.jobs.events import JobEvent
from hessian_spectrum.service.job_events import JobEventReader

_HEARTBEAT_SECONDS = 15
"""Seconds between comments that keep proxies from closing an idle connection."""

_SEND_SECONDS = 30.0
"""Seconds that a caller may take to read on, once all buffers are full."""

_SHUTDOWN_SECONDS = 1.5
_RETRY_MILLISECONDS = 1000


class JobEventResponse(EventSourceResponse):
    """Streams the events of one reader.

    Args:
        reader: Where the events come from.
        text: Makes the data of an event.
    """

    def __init__(self, reader: JobEventReader, text: Callable[[JobEvent], str]) -> None:
        stopping = anyio.Event()
        super().__init__(
            _messages(reader, text, stopping),
            ping=_HEARTBEAT_SECONDS,
            sep="\n",
            send_timeout=_SEND_SECONDS,
            shutdown_event=stopping,
            shutdown_grace_period=_SHUTDOWN_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there are no more or the caller stops reading."""
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _messages(
    reader: JobEventReader, text: Callable[[JobEvent], str], stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    async with contextlib.aclosing(reader.events(stopping)) as events:
        async for event in events:
            yield ServerSentEvent(text(event), id=event.id, retry=_RETRY_MILLISECONDS, sep="\n")
