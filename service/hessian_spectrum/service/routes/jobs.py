"""`/v1/jobs`: submit, follow, list, cancel and delete jobs, and fetch their results."""

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from hessian_spectrum.api_schemas.jobs import (
    Job,
    JobBatch,
    JobPage,
    JobRequest,
    JobResult,
    JobState,
    Links,
    SubmittedJobs,
)
from hessian_spectrum.api_schemas.message import described
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.results.plots.figure_style import FigureStyle
from hessian_spectrum.service.admission import BATCH_PATH, submitted_job, submitted_jobs
from hessian_spectrum.service.auth import KEY_ID
from hessian_spectrum.service.context import CurrentPrincipal, Service, service_context
from hessian_spectrum.service.job_message import job_message
from hessian_spectrum.service.job_service import JobService, SubmittedJob
from hessian_spectrum.service.request_parsing import (
    FIGURE_PARAMETERS,
    MEDIA_TYPES,
    PageToken,
    ResultFormat,
    StrictRoute,
    chosen_options,
    decode_page_token,
    encode_page_token,
    figure_style,
    require_format,
    require_json,
)
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    INVALID,
    INVALID_BODY,
    JOB_EXAMPLES,
    UNAVAILABLE,
    UNKNOWN,
    Responses,
    batch_documentation,
    body_documentation,
    formats_documentation,
    problem_documentation,
)
from hessian_spectrum.service.serialization.resmooth import SmoothingOverrides
from hessian_spectrum.storage.results import ResultDamagedError

MAX_WAIT_SECONDS = 60

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)

FILE_PATH = "/jobs/{job_id}/result.{name}"
"""Path of a result as a file."""

_JOB_ID = described(r"^[0-9a-f]{32}$", "must be the id of a job: 32 hexadecimal digits in lower case")
_OWNER = described(rf"^(me|{KEY_ID})$", "must be me, or the id of a key: 12 hexadecimal digits")
_TAG = described(":", "must be a name and a value with a colon between them")

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Any text. For a day the same key and body give the same jobs, so that a request whose response "
        "was lost can be sent again; with another body the key is refused.",
    ),
]
CacheControl = Annotated[str | None, Header(description="`no-cache` computes a job even if its result is stored.")]
JobId = Annotated[str, Path(pattern=_JOB_ID, description="The id that the submission returned.")]


@router.post(
    "",
    status_code=202,
    response_model=Job,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_507="The disk has no room for a large request."),
        200: {
            "model": Job,
            "description": "The job ended within the time of `Prefer: wait`, or has a stored result.",
        },
    },
    openapi_extra=body_documentation(JobRequest, JOB_EXAMPLES),
    summary="Submit a job",
)
async def submit_job(
    submitted: Annotated[SubmittedJob, Depends(submitted_job)],
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    prefer: Annotated[
        str | None,
        Header(description="`wait=N` delays the response until the job has ended, by N <= 60 seconds at most."),
    ] = None,
    idempotency_key: IdempotencyKey = None,
    cache_control: CacheControl = None,
) -> Response:
    """A job is accepted once its record is on disk; the response holds its id and links to follow it.

    If a present worker's code has computed an equal request before, the job ends at once with that result as `cached`.
    """
    seconds, fresh = _preferred_wait(prefer), _wants_fresh(cache_control)
    submit = partial(
        service.submit,
        [submitted],
        caller,
        idempotency_key=idempotency_key,
        fresh=fresh,
        request_id=request.state.request_id,
    )
    (record,), replayed = await run_in_threadpool(submit)
    if seconds and not record.ended:
        if request.state.slot.may_wait():
            request.state.slot.start_waiting()
            record = await service.wait(record, seconds)
        else:
            seconds = 0  # too many requests wait: respond at once, as the job is stored anyway
    headers = {"Location": str(request.url_for("get_job", job_id=record.id))}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not record.ended:
        headers["Retry-After"] = "1"
    return _job_response(request, record, status=200 if record.ended else 202, headers=headers)


@router.post(
    BATCH_PATH.removeprefix(router.prefix),
    status_code=202,
    response_model=SubmittedJobs,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_507="The disk has no room for a large request."),
        200: {"model": SubmittedJobs, "description": "Each of the jobs has a stored result."},
    },
    openapi_extra=batch_documentation(JobBatch, "jobs", JOB_EXAMPLES),
    summary="Submit many jobs",
)
async def submit_jobs(
    submitted: Annotated[list[SubmittedJob], Depends(submitted_jobs)],
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    idempotency_key: IdempotencyKey = None,
    cache_control: CacheControl = None,
) -> Response:
    """All of the jobs are accepted, or none: the problem of one that is wrong names it by its index."""
    submit = partial(
        service.submit,
        submitted,
        caller,
        idempotency_key=idempotency_key,
        fresh=_wants_fresh(cache_control),
        request_id=request.state.request_id,
    )
    records, replayed = await run_in_threadpool(submit)
    have_ended = all(record.ended for record in records)
    jobs = SubmittedJobs(jobs=[job_with_links(request, record) for record in records])
    headers = {"Idempotency-Replayed": "true"} if replayed else {}
    content = jobs.model_dump_json()
    return Response(content, status_code=200 if have_ended else 202, media_type="application/json", headers=headers)


@router.get(
    "",
    responses={**INVALID, **problem_documentation(status_403="Only an admin may list the jobs of another key.")},
    summary="List jobs, newest first",
)
def list_jobs(
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    state: JobState | None = None,
    tag: Annotated[
        str | None, Query(description="Lists only jobs with this tag, as `name:value`.", max_length=400, pattern=_TAG)
    ] = None,
    owner: Annotated[
        str | None,
        Query(
            pattern=_OWNER,
            description="Lists only the jobs of `me` or of the key with this id; admins may list those of any key.",
        ),
    ] = None,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: PageToken = None,
) -> JobPage:
    """One page of the caller's jobs, or of all for an admin; `next_page_token` leads to the next page."""
    listed_owner = caller.owner if owner == "me" else owner
    records, last = service.page(
        caller,
        owner=listed_owner,
        state=state,
        tag=_parsed_tag(tag),
        size=page_size,
        after=decode_page_token(page_token),
    )
    jobs = [job_with_links(request, record) for record in records]
    return JobPage(jobs=jobs, next_page_token=encode_page_token(last) if last else None)


_UNCHANGED: Responses = {304: {"description": "The response has not changed since If-None-Match; it has no body."}}


@router.get("/{job_id}", response_model=Job, responses={**UNKNOWN, **_UNCHANGED}, summary="Get a job")
async def get_job(
    job_id: JobId,
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="The response waits for the end of the job by this many seconds at most.",
        ),
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="The ETag of an earlier response.")] = None,
) -> Response:
    """The record of the job; with `wait` the response comes when the job has ended or the time is over."""
    record = await run_in_threadpool(service.get, job_id, caller)
    if wait and not record.ended:
        request.state.slot.start_waiting()
    record = await service.wait(record, wait)
    headers = {} if record.ended else {"Retry-After": "1"}
    return _job_response(request, record, status=200, headers=headers, if_none_match=if_none_match)


@router.get(
    "/{job_id}/request",
    response_model=JobRequest,
    responses={
        **UNKNOWN,
        **problem_documentation(status_410="A long request is kept until its job ends."),
        200: {"description": "The request, with its defaults."},
    },
    summary="The request of a job",
)
def get_job_request(job_id: JobId, service: Service, caller: CurrentPrincipal) -> Response:
    """The validated request, from which the job can be submitted again; long ones are kept until the job ends."""
    return Response(service.request(job_id, caller), media_type="application/json")


_FORBIDDEN = problem_documentation(status_403="The job belongs to another key, which shares it for reading only.")
_RESULT_RESPONSES = {
    **UNKNOWN,
    **_UNCHANGED,
    **problem_documentation(
        status_406="The result has none of the accepted formats.",
        status_409="The job has not finished, or was cancelled.",
        status_410="The result has expired.",
    ),
}


def _smoothing_overrides(
    num_points: Annotated[
        int | None, Query(ge=2, le=100_000, description="The number of points of each curve.")
    ] = None,
    kappa: Annotated[
        float | None,
        Query(gt=1, le=1e6, description="The sharpness of the density; larger values make narrower Gaussians."),
    ] = None,
    margin: Annotated[
        float | None,
        Query(ge=0, le=10, description="The margin of the grid beyond the spectrum, in widths of the spectrum."),
    ] = None,
) -> SmoothingOverrides:
    return SmoothingOverrides(num_points, kappa, margin)


Overrides = Annotated[SmoothingOverrides, Depends(_smoothing_overrides)]
Interim = Annotated[
    bool,
    Query(
        description="While a Lanczos job runs, the result of the probes that are done, or of the steps of those under "
        "way, with `interim` true; once it has ended, its result."
    ),
]


@router.get(
    "/{job_id}/result",
    response_model=JobResult,
    responses={**_RESULT_RESPONSES, 200: {"content": formats_documentation()}},
    openapi_extra={"parameters": [ACCEPT, *FIGURE_PARAMETERS]},
    summary="The result of a job",
)
async def get_job_result(
    job_id: JobId,
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    overrides: Overrides,
    interim: Interim = False,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The result as JSON, npz, CSV or a figure, chosen by the Accept header; a failed job responds with its problem.

    An npz file holds all arrays, including eigenvectors and diagonals, which JSON leaves out. CSV is the table of the
    main numbers. The parameters
    `num_points`, `kappa` and `margin` smooth the curves of `lanczos` again without another computation.
    """
    async with service.result_of(job_id, caller, interim=interim) as digest:
        name = require_format(request.headers.get("accept"))
        rendering = _Rendering(digest, name, overrides, figure_style(request, name))
        return await _result_response(request, service, rendering, if_none_match=if_none_match)


@router.get(
    FILE_PATH.removeprefix(router.prefix),
    response_model=JobResult,
    responses={**_RESULT_RESPONSES, 200: {"content": formats_documentation()}},
    openapi_extra={"parameters": FIGURE_PARAMETERS},
    summary="The result as a file",
)
async def get_job_result_file(
    job_id: JobId,
    name: ResultFormat,
    request: Request,
    service: Service,
    caller: CurrentPrincipal,
    overrides: Overrides,
    interim: Interim = False,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """`result.json`, `result.npz`, `result.csv`, `result.png`, `result.svg` or `result.pdf`."""
    async with service.result_of(job_id, caller, interim=interim) as digest:
        rendering = _Rendering(digest, name, overrides, figure_style(request, name))
        return await _result_response(request, service, rendering, if_none_match=if_none_match)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=Job,
    responses={**UNKNOWN, **_FORBIDDEN, 200: {"model": Job, "description": "The job had already ended."}},
    summary="Cancel a job",
)
def cancel_job(job_id: JobId, request: Request, service: Service, caller: CurrentPrincipal) -> Response:
    """A queued job ends at once, a running job as soon as its worker notices the request."""
    record, had_ended = service.cancel(job_id, caller)
    return _job_response(request, record, status=200 if had_ended else 202, headers={})


@router.delete(
    "/{job_id}",
    status_code=204,
    responses={**UNKNOWN, **_FORBIDDEN, **problem_documentation(status_409="The job has not ended.")},
    summary="Delete a job and its result",
)
def delete_job(job_id: JobId, service: Service, caller: CurrentPrincipal) -> None:
    """Only a job that has ended can be deleted."""
    service.delete(job_id, caller)


def job_with_links(request: Request, record: JobRecord) -> Job:
    """Return the record of a job as a message, with links under the address that the caller used."""

    def link(route: str) -> str:
        return str(request.url_for(route, job_id=record.id))

    links = Links(
        self=link("get_job"), result=link("get_job_result"), events=link("follow_job"), cancel=link("cancel_job")
    )
    return job_message(record, links)


def _job_response(
    request: Request, record: JobRecord, *, status: int, headers: dict[str, str], if_none_match: str | None = None
) -> Response:
    content = job_with_links(request, record).model_dump_json().encode()
    headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    if _is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, status_code=status, media_type="application/json", headers=headers)


@dataclass(frozen=True)
class _Rendering:
    """A result in one format."""

    digest: str
    name: ResultFormat
    overrides: SmoothingOverrides
    style: FigureStyle

    @property
    def headers(self) -> dict[str, str]:
        """Headers with a tag of everything that the response depends on."""
        choices = repr(sorted({**chosen_options(self.overrides), **chosen_options(self.style)}.items()))
        tag = hashlib.sha256(f"{self.digest}.{self.name} {choices}".encode()).hexdigest()[:32]
        return {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}


async def _result_response(
    request: Request, service: JobService, rendering: _Rendering, *, if_none_match: str | None
) -> Response:
    headers, media_type = rendering.headers, MEDIA_TYPES[rendering.name]
    if _is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    if rendering.name == "json" and not chosen_options(rendering.overrides):
        document = await run_in_threadpool(service.result, rendering.digest)
        return Response(document, media_type=media_type, headers=headers)
    context = service_context(request)
    arguments = {
        "results_dir": str(context.settings.results_dir),
        "storage_url": context.settings.storage_url,
        "digest": rendering.digest,
        "name": rendering.name,
        "changes": chosen_options(rendering.overrides),
        "style": chosen_options(rendering.style),
    }
    reply = await context.executor.run(request, "result", arguments=arguments)
    if "damaged" in reply.fields:
        raise ResultDamagedError(reply.fields["damaged"])
    if (arrays := reply.fields.get("arrays")) is not None:
        chunks = service.arrays(rendering.digest, arrays["sha256"])
        headers["Content-Length"] = str(arrays["num_bytes"])
        return StreamingResponse(chunks, media_type=media_type, headers=headers)
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
