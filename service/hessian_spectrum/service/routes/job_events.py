"""`/v1/jobs/{job_id}/events` and `/v1/events`: the changes of one job or of all as server-sent events."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from hessian_spectrum.jobs.events import JobEvent
from hessian_spectrum.service.context import CurrentPrincipal, Service, service_context
from hessian_spectrum.service.job_events import JobEventReader, JobListReader
from hessian_spectrum.service.request_parsing import StrictRoute
from hessian_spectrum.service.routes.documentation import EVENTS, UNAVAILABLE, UNKNOWN, problem_documentation
from hessian_spectrum.service.routes.jobs import JobId, job_with_links

_HEARTBEAT_SECONDS = 15
"""Seconds between comments that keep proxies from closing an idle connection."""

_SEND_SECONDS = 30.0
"""Seconds that a caller may take to read on, once all buffers are full."""

_SHUTDOWN_SECONDS = 1.5
_RETRY_MILLISECONDS = 1000

router = APIRouter(tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)


@router.get(
    "/events",
    response_class=Response,
    responses={**problem_documentation(status_429="Too many requests wait for events."), 200: EVENTS},
    summary="Follow all jobs",
)
async def follow_jobs(request: Request, caller: CurrentPrincipal) -> Response:
    """Server-sent events: each change of the caller's jobs, or of all for an admin, from the first comment on.

    The data of an event is what `GET /v1/jobs/{job_id}` returned at that moment. Changes in short succession may come
    as one event. The stream does not end. After an interruption, list the jobs again once it is connected.
    """
    context = service_context(request)
    reader = JobListReader(
        context.job_events,
        is_listed=lambda record: caller.is_admin or record.owner == caller.owner,
        is_authorized=lambda: context.key_store.is_authorized(caller.owner),
    )
    request.state.slot.start_waiting()
    return JobEventResponse(reader, _texts(request))


@router.get(
    "/jobs/{job_id}/events",
    response_class=Response,
    responses={
        **UNKNOWN,
        **problem_documentation(status_429="Too many requests wait for events."),
        200: EVENTS,
        204: {"description": "The job has ended, and the caller has received all of its events."},
    },
    summary="Follow a job",
)
async def follow_job(
    job_id: JobId,
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="The id of the event that was received last.")
    ] = None,
) -> Response:
    """Server-sent events: the present state of the job, then each change until it has ended.

    The data of an event is what `GET /v1/jobs/{job_id}` returned at that moment. With `Last-Event-ID` no event is
    missed or repeated; if that event is no longer known, the stream begins with the present state.
    """
    context = service_context(request)
    record = await run_in_threadpool(service.get, job_id, caller)
    reader = await context.job_events.reader(
        record, last_event_id, lambda: context.key_store.is_authorized(caller.owner)
    )
    if reader is None:
        return Response(status_code=204)
    request.state.slot.start_waiting()
    return JobEventResponse(reader, _texts(request))


def _texts(request: Request) -> Callable[[JobEvent], str]:
    """Return a function that makes the data of an event, once for all callers who use the same base URL."""
    address = str(request.base_url)

    def text(event: JobEvent) -> str:
        if address not in event.texts:
            event.texts[address] = job_with_links(request, event.record).model_dump_json()
        return event.texts[address]

    return text


class JobEventResponse(EventSourceResponse):
    """Streams the events of one reader.

    Args:
        reader: Source of the events.
        text: Makes the data of an event.
    """

    def __init__(self, reader: JobEventReader | JobListReader, text: Callable[[JobEvent], str]) -> None:
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
    reader: JobEventReader | JobListReader, text: Callable[[JobEvent], str], stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    async with contextlib.aclosing(reader.events(stopping)) as events:
        async for event in events:
            if event is None:
                yield ServerSentEvent(comment="connected", sep="\n")
                continue
            event_id = event.id if reader.is_resumable else None
            yield ServerSentEvent(text(event), id=event_id, retry=_RETRY_MILLISECONDS, sep="\n")
