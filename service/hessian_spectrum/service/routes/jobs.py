"""`/v1/jobs`: submit, follow, list, cancel and delete jobs, and fetch their results."""

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from hessian_spectrum.api_schemas.job_requests import JobRequest
from hessian_spectrum.api_schemas.job_results import JobResult
from hessian_spectrum.api_schemas.jobs import Job, JobPage, JobState, Links
from hessian_spectrum.api_schemas.patterns import described
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.service.auth.key_store import KEY_ID
from hessian_spectrum.service.auth.principal import CurrentPrincipal
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.formats.representations import MEDIA_TYPES, require_format
from hessian_spectrum.service.formats.resmoothing import SmoothingChange
from hessian_spectrum.service.job_desk import JobDesk
from hessian_spectrum.service.page_tokens import PageToken, id_of_token, token_of_id
from hessian_spectrum.service.pictures.sheet import Style
from hessian_spectrum.service.routes.asked_jobs import AskedJob, asked_job
from hessian_spectrum.service.routes.content_type import require_json
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    INVALID,
    INVALID_BODY,
    JOB_EXAMPLES,
    UNAVAILABLE,
    UNKNOWN,
    Responses,
    body_documentation,
    formats_documentation,
    problem_documentation,
)
from hessian_spectrum.service.routes.picture_style import PICTURE_PARAMETERS, picture_style
from hessian_spectrum.service.routes.strict_route import StrictRoute
from hessian_spectrum.storage.results import ResultDamagedError

MAX_WAIT_SECONDS = 60

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)

FILE_PATH = "/jobs/{job_id}/result.{name}"
"""Of a result as a file."""

_JOB_ID = described(r"^[0-9a-f]{32}$", "must be the id of a job: 32 hexadecimal digits in lower case")
_OWNER = described(rf"^(me|{KEY_ID})$", "must be me, or the id of a key: 12 hexadecimal digits")
_TAG = described(":", "must be a name and a value with a colon between them")

JobId = Annotated[str, Path(pattern=_JOB_ID, description="the id that the submission returned")]
ResultFormat = Literal["json", "npz", "png", "svg", "pdf"]


async def _desk(request: Request) -> JobDesk:
    return service_context(request).job_service


Desk = Annotated[JobDesk, Depends(_desk)]


@router.post(
    "",
    status_code=202,
    response_model=Job,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_507="there is no room on the disk for a large request"),
        200: {
            "model": Job,
            "description": "the job ended within the time of `Prefer: wait`, or was answered by a stored result",
        },
    },
    openapi_extra=body_documentation(JobRequest, JOB_EXAMPLES),
    summary="Submit a job",
)
async def submit_job(
    asked: Annotated[AskedJob, Depends(asked_job)],
    request: Request,
    desk: Desk,
    caller: CurrentPrincipal,
    prefer: Annotated[str | None, Header(description="`wait=N`: answer once the job ended, or after N <= 60 s")] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="any text of the caller's: for a day the same key and body give the same job, so that a "
            "request whose answer was lost can be sent again; with another body the key is refused",
        ),
    ] = None,
    cache_control: Annotated[
        str | None, Header(description="`no-cache`: compute, even if a stored result answers the request")
    ] = None,
) -> Response:
    """A job is accepted when its record is on disk; the answer holds its id and where to follow it.

    A request that was answered before, by the same code, is answered at once by the stored result: the job is `cached`.
    """
    seconds, fresh = _preferred_wait(prefer), _wants_fresh(cache_control)
    names = {"fresh": fresh, "request_id": request.state.request_id}
    submit = partial(desk.submit, asked.submission, asked.admit, caller, idempotency_key, **names)
    record, replayed = await run_in_threadpool(submit)
    if seconds and not record.ended:
        if request.state.slot.may_wait():
            request.state.slot.start_waiting()
            record = await desk.wait(record, seconds)
        else:
            seconds = 0  # too many wait already: a wait is a wish, the job is written
    headers = {"Location": str(request.url_for("get_job", job_id=record.id))}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not record.ended:
        headers["Retry-After"] = "1"
    return _job_response(request, record, 200 if record.ended else 202, headers)


@router.get(
    "",
    responses={**INVALID, **problem_documentation(status_403="only an admin lists the jobs of another")},
    summary="List jobs, newest first",
)
def list_jobs(
    request: Request,
    desk: Desk,
    caller: CurrentPrincipal,
    state: JobState | None = None,
    tag: Annotated[str | None, Query(description="`name:value`", max_length=400, pattern=_TAG)] = None,
    owner: Annotated[
        str | None,
        Query(pattern=_OWNER, description="`me` or the id of a key; of admins, who see all jobs"),
    ] = None,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: PageToken = None,
) -> JobPage:
    """One page of the caller's jobs, of an admin's everyone's; `next_page_token` leads to the next."""
    wanted = caller.owner if owner == "me" else owner
    records, last = desk.page(caller, wanted, state, _parsed_tag(tag), page_size, id_of_token(page_token))
    jobs = [job_message(request, record) for record in records]
    return JobPage(jobs=jobs, next_page_token=token_of_id(last) if last else None)


_UNCHANGED: Responses = {304: {"description": "what If-None-Match names is still so; the answer has no body"}}


@router.get("/{job_id}", response_model=Job, responses={**UNKNOWN, **_UNCHANGED}, summary="How a job stands")
async def get_job(
    job_id: JobId,
    request: Request,
    desk: Desk,
    caller: CurrentPrincipal,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for its end")] = 0,
    if_none_match: Annotated[str | None, Header(description="a tag from an earlier answer's ETag")] = None,
) -> Response:
    """The job's record; with `wait` the answer comes when the job ended or the time is over."""
    record = await run_in_threadpool(desk.get, job_id, caller)
    if wait and not record.ended:
        request.state.slot.start_waiting()
    record = await desk.wait(record, wait)
    headers = {} if record.ended else {"Retry-After": "1"}
    return _job_response(request, record, 200, headers, if_none_match)


_NOT_YOURS = problem_documentation(status_403="the job is shared by another key, and can be read alone")
_RESULT_RESPONSES = {
    **UNKNOWN,
    **_UNCHANGED,
    **problem_documentation(
        status_406="none of the accepted formats",
        status_409="the job has not finished, or was cancelled",
        status_410="the result has expired",
    ),
}


def _smoothing_change(
    num_points: Annotated[int | None, Query(ge=2, le=100_000, description="points of the curves")] = None,
    kappa: Annotated[float | None, Query(gt=1, le=1e6, description="sharpness of the density")] = None,
    margin: Annotated[float | None, Query(ge=0, le=10, description="of the grid, in widths of the spectrum")] = None,
) -> SmoothingChange:
    return SmoothingChange(num_points, kappa, margin)


Change = Annotated[SmoothingChange, Depends(_smoothing_change)]


@router.get(
    "/{job_id}/result",
    response_model=JobResult,
    responses={**_RESULT_RESPONSES, 200: {"content": formats_documentation()}},
    openapi_extra={"parameters": [ACCEPT, *PICTURE_PARAMETERS]},
    summary="The result of a job",
)
async def get_job_result(
    job_id: JobId,
    request: Request,
    desk: Desk,
    caller: CurrentPrincipal,
    change: Change,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The result as JSON, npz or a picture, by Accept; a failed job answers with its problem.

    npz holds all arrays, eigenvectors and diagonals, too, which JSON does not. The curves of `lanczos` can be smoothed
    anew, without another computation: `num_points`, `kappa` and `margin`.
    """
    async with desk.result_of(job_id, caller) as digest:
        name = require_format(request.headers.get("accept"))
        wanted = _Wanted(digest, name, change, picture_style(request, name))
        return await _result_response(request, desk, wanted, if_none_match)


@router.get(
    FILE_PATH.removeprefix(router.prefix),
    response_model=JobResult,
    responses={**_RESULT_RESPONSES, 200: {"content": formats_documentation()}},
    openapi_extra={"parameters": PICTURE_PARAMETERS},
    summary="The result as a file",
)
async def get_job_result_file(
    job_id: JobId,
    name: ResultFormat,
    request: Request,
    desk: Desk,
    caller: CurrentPrincipal,
    change: Change,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """`result.json`, `result.npz`, `result.png`, `result.svg` or `result.pdf`."""
    async with desk.result_of(job_id, caller) as digest:
        wanted = _Wanted(digest, name, change, picture_style(request, name))
        return await _result_response(request, desk, wanted, if_none_match)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=Job,
    responses={**UNKNOWN, **_NOT_YOURS, 200: {"model": Job, "description": "the job had already ended"}},
    summary="Cancel a job",
)
def cancel_job(job_id: JobId, request: Request, desk: Desk, caller: CurrentPrincipal) -> Response:
    """A queued job ends at once, a running one as soon as its worker sees the wish."""
    record, had_ended = desk.cancel(job_id, caller)
    return _job_response(request, record, 200 if had_ended else 202, {})


@router.delete(
    "/{job_id}",
    status_code=204,
    responses={**UNKNOWN, **_NOT_YOURS, **problem_documentation(status_409="the job has not ended")},
    summary="Forget a job and its result",
)
def delete_job(job_id: JobId, desk: Desk, caller: CurrentPrincipal) -> None:
    """Only a job that ended can be deleted."""
    desk.delete(job_id, caller)


def job_message(request: Request, record: JobRecord) -> Job:
    """The record as callers see it."""

    def link(route: str) -> str:
        return str(request.url_for(route, job_id=record.id))

    return Job(
        id=record.id,
        kind=record.kind,
        state=record.state,
        progress=record.progress,
        attempt=record.attempt,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        error=record.error,
        tags=record.tags,
        owner=record.owner,
        shared=record.shared,
        cached=record.cached,
        links=Links(
            self=link("get_job"), result=link("get_job_result"), events=link("follow_job"), cancel=link("cancel_job")
        ),
    )


def _job_response(
    request: Request, record: JobRecord, status: int, headers: dict[str, str], if_none_match: str | None = None
) -> Response:
    content = job_message(request, record).model_dump_json().encode()
    headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    if _is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, status_code=status, media_type="application/json", headers=headers)


@dataclass(frozen=True)
class _Wanted:
    """A result in some form."""

    digest: str
    name: str
    change: SmoothingChange
    style: Style

    @property
    def headers(self) -> dict[str, str]:
        """With a tag of all that the answer depends on."""
        choices = repr(sorted({**self.change.changes, **self.style.choices}.items()))
        tag = hashlib.sha256(f"{self.digest}.{self.name} {choices}".encode()).hexdigest()[:32]
        return {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}


async def _result_response(request: Request, desk: JobDesk, wanted: _Wanted, if_none_match: str | None) -> Response:
    headers, media_type = wanted.headers, MEDIA_TYPES[wanted.name]
    if _is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    if wanted.name == "json" and not wanted.change.changes:
        document = await run_in_threadpool(desk.result, wanted.digest)
        return Response(document, media_type=media_type, headers=headers)
    context = service_context(request)
    arguments = {
        "results_dir": str(context.settings.results_dir),
        "storage_url": context.settings.storage_url,
        "digest": wanted.digest,
        "name": wanted.name,
        "changes": wanted.change.changes,
        "style": wanted.style.choices,
    }
    reply = await context.heavy.do(request, "result", arguments)
    if "damaged" in reply.fields:
        raise ResultDamagedError(reply.fields["damaged"])
    if (arrays := reply.fields.get("arrays")) is not None:
        pieces = desk.arrays(wanted.digest, arrays["sha256"])
        headers["Content-Length"] = str(arrays["num_bytes"])
        return StreamingResponse(pieces, media_type=media_type, headers=headers)
    return Response(reply.content, media_type=media_type, headers=headers)


def _is_known(tag: str, if_none_match: str | None) -> bool:
    known = [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]
    return tag in known or "*" in known


def _wants_fresh(cache_control: str | None) -> bool:
    return "no-cache" in (part.strip().lower() for part in (cache_control or "").split(","))


def _preferred_wait(prefer: str | None) -> int:
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*(\d{1,100})(?![\w.])", prefer or "")
    return min(int(match.group(1)), MAX_WAIT_SECONDS) if match else 0


def _parsed_tag(tag: str | None) -> tuple[str, str] | None:
    if tag is None:
        return None
    name, _, value = tag.partition(":")
    return name, value
