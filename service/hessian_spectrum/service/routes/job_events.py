"""`/v1/jobs/{job_id}/events`: the changes of a job."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.jobs.events import JobEvent
from hessian_spectrum.service.context import Context, CurrentPrincipal
from hessian_spectrum.service.routes.documentation import EVENTS, UNAVAILABLE, UNKNOWN, problem_documentation
from hessian_spectrum.service.routes.jobs import JobId, Service, job_message
from hessian_spectrum.service.routes.parameters import StrictRoute
from hessian_spectrum.service.sse import JobEventResponse

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)


@router.get(
    "/{job_id}/events",
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
    context: Context,
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
    record = await run_in_threadpool(service.get, job_id, caller)
    reader = await context.job_events.reader(
        record, last_event_id, lambda: context.key_store.is_authorized(caller.owner)
    )
    if reader is None:
        return Response(status_code=204)
    request.state.slot.start_waiting()

    address = str(request.base_url)

    def text(event: JobEvent) -> str:
        if address not in event.texts:
            event.texts[address] = job_message(request, event.record).model_dump_json()
        return event.texts[address]

    return JobEventResponse(reader, text)
