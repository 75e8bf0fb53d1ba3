"""The job in the body of a request, which is compared with what the workers have; `/v1/estimates`: its cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.artifacts import CONTEXT as ARTIFACTS
from hessian_spectrum.api_schemas.checkpoints import CONTEXT as CHECKPOINTS
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, CostEstimate, JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.checkpoints.directory import LARGE_HEADER_BYTES
from hessian_spectrum.jobs.plans import stored_plan
from hessian_spectrum.service.admission import Admission, available_bytes
from hessian_spectrum.service.context import Artifacts, CurrentPrincipal, service_context
from hessian_spectrum.service.job_service import Submission
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.process_pool.worker import Reply
from hessian_spectrum.service.request_parsing import (
    LARGE_BODY_BYTES,
    StrictRoute,
    check_json,
    json_body,
    parse_body,
    require_json,
)
from hessian_spectrum.service.routes.documentation import INVALID_BODY, JOB_EXAMPLES, UNAVAILABLE, body_documentation
from hessian_spectrum.service.uploads.artifact_service import ArtifactService

router = APIRouter(prefix="/estimates", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)


@dataclass(frozen=True)
class SubmittedJob:
    """The job in the body of a request.

    Attributes:
        submission: The data from which the job is created.
        admit: Returns the job's plan as JSON, or None without a worker to plan for; raises ProblemError or RedisError
            if the job cannot be computed here.
    """

    submission: Submission
    admit: Callable[[], str | None] = field(repr=False)


async def submitted_job(request: Request, caller: CurrentPrincipal, artifacts: Artifacts) -> SubmittedJob:
    """Return the job in the body of the request; a dependency of routes."""
    body = await json_body(request)
    if await _is_expensive(request, body):
        reply = await _run_task(request, "submission", body, caller)
        refusal, plan = reply.fields["refusal"], reply.fields["plan"]
        fields = {name: value for name, value in reply.fields.items() if name not in ("refusal", "plan")}
        submission = Submission(text=bytes(reply.content).decode(), **fields)
        return SubmittedJob(submission, partial(_admitted, refusal, plan))

    def parse_job() -> SubmittedJob:
        message, admission = _parse(request, body, artifacts)
        return SubmittedJob(Submission.of(message), partial(_planned, admission, message))

    return await run_in_threadpool(parse_job)


async def _estimate_of_body(request: Request, caller: CurrentPrincipal, artifacts: Artifacts) -> CostEstimate:
    """Return the cost of the job in the body of the request; a dependency of routes."""
    body = await json_body(request)
    if await _is_expensive(request, body):
        return CostEstimate.model_validate_json(bytes((await _run_task(request, "estimate", body, caller)).content))

    def estimate() -> CostEstimate:
        message, admission = _parse(request, body, artifacts)
        return admission.estimate(message)

    return await run_in_threadpool(estimate)


@router.post(
    "",
    dependencies=[Depends(require_json)],
    responses=INVALID_BODY,
    openapi_extra=body_documentation(JobRequest, JOB_EXAMPLES),
    summary="Estimate the cost of a job",
)
async def estimate_job(estimate: Annotated[CostEstimate, Depends(_estimate_of_body)]) -> CostEstimate:
    """Memory, products and micro-batches of a job with the same body as `POST /v1/jobs`, without queueing it."""
    return estimate


def _parse(request: Request, body: bytes, artifacts: ArtifactService) -> tuple[AnyJobRequest, Admission]:
    context = service_context(request)
    admission = Admission(partial(available_bytes, context.stores.redis), artifacts, context.settings.job_seconds)
    return parse_body(body, JobRequest, {CHECKPOINTS: context.models, ARTIFACTS: artifacts}).root, admission


async def _run_task(request: Request, task: str, body: bytes, caller: CurrentPrincipal) -> Reply:
    context = service_context(request)
    settings = context.settings
    arguments = {
        "results_dir": str(settings.results_dir),
        "storage_url": settings.storage_url,
        "models_dir": None if settings.models_dir is None else str(settings.models_dir),
        "uploads_bytes": settings.uploads_bytes,
        "max_artifacts": settings.max_artifacts,
        "job_seconds": settings.job_seconds,
        "owner": caller.owner,
        "is_admin": caller.is_admin,
        "available_bytes": await run_in_threadpool(available_bytes, context.stores.redis),
        "verdicts": await _verdicts(request, body),
        "digests": context.models.digests.known(),  # includes the checkpoints that were just looked at
    }
    return await context.executor.run(request, task, arguments=arguments, content=body)


async def _verdicts(request: Request, body: bytes) -> dict[str, Any]:
    """Return the verdicts of workers on the checkpoints that the body names."""
    context = service_context(request)
    names = await run_in_threadpool(_checkpoint_names, body)
    for name in names:
        await context.descriptions.make(request, name)
    verdicts = await run_in_threadpool(lambda: [context.models.verdicts(name) for name in names])
    return {key: verdict.model_dump(mode="json") for each in verdicts for key, verdict in each.items()}


async def _is_expensive(request: Request, body: bytes) -> bool:
    if len(body) > LARGE_BODY_BYTES:
        return True
    names = _checkpoint_names(body)
    if not names:
        return False
    models = service_context(request).models
    return await run_in_threadpool(lambda: max(map(models.num_header_bytes, names))) > LARGE_HEADER_BYTES


def _checkpoint_names(body: bytes) -> set[str]:
    """Return the names of checkpoints that the body may mean; errors are reported when it is parsed."""
    if b"checkpoint" not in body and rb"\u" not in body:
        return set()
    check_json(body)
    try:
        document = from_json(body)
    except ValueError:
        return set()
    fields = document if isinstance(document, dict) else {}
    several = fields.get("models")
    models = [fields.get("model"), *(several if isinstance(several, list) else ())]
    names = (model.get("checkpoint") for model in models if isinstance(model, dict))
    return {name for name in names if isinstance(name, str)}


def _planned(admission: Admission, message: AnyJobRequest) -> str | None:
    plan = admission.check(message)
    return None if plan is None else stored_plan(plan)


def _admitted(refusal: dict[str, Any] | None, plan: str | None) -> str | None:
    if refusal is not None:
        raise ProblemError(Problem.model_validate(refusal))
    return plan
