"""What the body of a request asks of jobs: read at once where it is small, in turn where that is heavy work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.artifacts import CONTEXT as ARTIFACTS
from hessian_spectrum.api_schemas.checkpoints import CONTEXT as CHECKPOINTS
from hessian_spectrum.api_schemas.estimates import CostEstimate
from hessian_spectrum.api_schemas.job_requests import AnyJobRequest, JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.checkpoints.directory import LARGE_HEADER_BYTES, ModelsDirectory
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.admission import Admission, available_bytes
from hessian_spectrum.service.bodies import LARGE_BODY_BYTES, json_body, read
from hessian_spectrum.service.doors.callers import CallerOf
from hessian_spectrum.service.doors.json_bounds import check_json
from hessian_spectrum.service.heavy.descriptions import Descriptions
from hessian_spectrum.service.heavy.desk import HeavyDesk
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.routes.artifacts import Artifacts
from hessian_spectrum.service.submission import Submission
from hessian_spectrum.service.uploads.callers_artifacts import CallersArtifacts


@dataclass(frozen=True)
class AskedJob:
    """A job that was asked for.

    Attributes:  admit, raises ProblemError or RedisError where the job cannot be computed here.
    """

    submission: Submission
    admit: Callable[[], None] = field(repr=False)


async def asked_job(request: Request, caller: CallerOf, artifacts: Artifacts) -> AskedJob:
    """The job that the body asks for."""
    body = await json_body(request)
    if await _is_heavy(request, body):
        reply = await _done(request, "submission", body, caller)
        refusal = reply.fields["refusal"]
        fields = {name: value for name, value in reply.fields.items() if name != "refusal"}
        return AskedJob(Submission(text=bytes(reply.content).decode(), **fields), partial(_refuse, refusal))

    def read_job() -> AskedJob:
        message, admission = _read(request, body, artifacts)
        return AskedJob(Submission.of(message), partial(admission.check, message))

    return await run_in_threadpool(read_job)


async def asked_estimate(request: Request, caller: CallerOf, artifacts: Artifacts) -> CostEstimate:
    """What the job that the body asks for would take."""
    body = await json_body(request)
    if await _is_heavy(request, body):
        return CostEstimate.model_validate_json(bytes((await _done(request, "estimate", body, caller)).content))

    def estimated() -> CostEstimate:
        message, admission = _read(request, body, artifacts)
        return admission.estimated(message)

    return await run_in_threadpool(estimated)


def _read(request: Request, body: bytes, artifacts: CallersArtifacts) -> tuple[AnyJobRequest, Admission]:
    state = request.app.state
    admission = Admission(partial(available_bytes, state.redis), artifacts, state.job_seconds)
    return read(body, JobRequest, {CHECKPOINTS: state.models, ARTIFACTS: artifacts}).root, admission


async def _done(request: Request, task: str, body: bytes, caller: CallerOf) -> Any:
    state, settings = request.app.state, request.app.state.settings
    assert isinstance(settings, ServiceSettings)
    arguments = {
        "results_dir": str(settings.results_dir),
        "storage_url": settings.storage_url,
        "models_dir": None if settings.models_dir is None else str(settings.models_dir),
        "uploads_bytes": state.uploads_bytes,
        "max_artifacts": settings.max_artifacts,
        "job_seconds": state.job_seconds,
        "owner": caller.owner,
        "is_admin": caller.is_admin,
        "available_bytes": await run_in_threadpool(available_bytes, state.redis),
        "verdicts": await _verdicts(request, body),
    }
    heavy: HeavyDesk = state.heavy
    return await heavy.do(request, task, arguments, body)


async def _verdicts(request: Request, body: bytes) -> dict[str, Any]:
    """What workers found of the checkpoints that the body names."""
    models: ModelsDirectory = request.app.state.models
    descriptions: Descriptions = request.app.state.descriptions
    names = await run_in_threadpool(_checkpoints, body)
    for name in names:
        await descriptions.make(request, name)
    found = await run_in_threadpool(lambda: [models.verdicts(name) for name in names])
    return {key: verdict.model_dump(mode="json") for each in found for key, verdict in each.items()}


async def _is_heavy(request: Request, body: bytes) -> bool:
    if len(body) > LARGE_BODY_BYTES:
        return True
    names = _checkpoints(body)
    if not names:
        return False
    models: ModelsDirectory = request.app.state.models
    return await run_in_threadpool(lambda: max(map(models.num_header_bytes, names))) > LARGE_HEADER_BYTES


def _checkpoints(body: bytes) -> set[str]:
    """Names of those that the body may mean; what is wrong with it is said when it is read."""
    if b"checkpoint" not in body and rb"\u" not in body:
        return set()
    check_json(body)
    try:
        found = from_json(body)
    except ValueError:
        return set()
    fields = found if isinstance(found, dict) else {}
    several = fields.get("models")
    models = [fields.get("model"), *(several if isinstance(several, list) else ())]
    names = (model.get("checkpoint") for model in models if isinstance(model, dict))
    return {name for name in names if isinstance(name, str)}


def _refuse(refusal: dict[str, Any] | None) -> None:
    if refusal is not None:
        raise ProblemError(Problem.model_validate(refusal))
