"""Admission of jobs: the job in the body of a request is parsed and planned for the workers that are present."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

from fastapi import Request
from pydantic_core import from_json, to_json
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.artifacts import CONTEXT as ARTIFACTS
from hessian_spectrum.api_schemas.artifacts import TokenArtifact
from hessian_spectrum.api_schemas.checkpoints import CONTEXT as CHECKPOINTS
from hessian_spectrum.api_schemas.data import TokenData
from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.experiments.kind import MAX_POINTS
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, CostEstimate, JobBatch, JobRequest
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.checkpoints.directory import LARGE_HEADER_BYTES
from hessian_spectrum.jobs.plans import gibibytes, memory_error, plan_job, stored_plan
from hessian_spectrum.jobs.receivers import is_receiver
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.config import API_PREFIX
from hessian_spectrum.service.context import Artifacts, CurrentPrincipal, service_context
from hessian_spectrum.service.job_service import Submission, SubmittedJob
from hessian_spectrum.service.problems import ProblemError, invalid_field, invalid_request, problem_of_part
from hessian_spectrum.service.process_pool.worker import Reply
from hessian_spectrum.service.request_parsing import LARGE_BODY_BYTES, check_json, json_body, parse_body
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.storage.artifacts import UnknownArtifactError

_FASTEST = 1000.0
"""Ratio of the speed of the fastest worker that we expect to that of two cores: in float32, a GPU such as the H200 has
67 TFLOP/s, and two cores reach some 60 GFLOP/s."""

_INACCURACY = 2.0
"""Factor within which predicted times on two cores are right."""

BATCH_PATH = "/jobs/batch"
"""Path of the route that takes many jobs."""

LARGE_GRID = 200
"""Number of points of a sweep above which its request is parsed and planned by another process."""


async def submitted_job(request: Request, caller: CurrentPrincipal, artifacts: Artifacts) -> SubmittedJob:
    """Return the job in the body of the request; a dependency of routes."""
    return await _submitted(request, await json_body(request), caller, artifacts=artifacts)


async def submitted_jobs(request: Request, caller: CurrentPrincipal, artifacts: Artifacts) -> list[SubmittedJob]:
    """Return the jobs in the body of the request, which is a batch; a dependency of routes."""
    body = await json_body(request)
    # the members of each job are counted when it is parsed
    batch = await run_in_threadpool(parse_body, body, JobBatch, max_members=len(body))
    memory = cache(service_context(request).workers.available_bytes)
    return [
        await _of_batch(index, partial(_submitted, request, to_json(job), caller, artifacts=artifacts, memory=memory))
        for index, job in enumerate(batch.jobs)
    ]


async def _of_batch(index: int, parse: Callable[[], Awaitable[SubmittedJob]]) -> SubmittedJob:
    """Return a job of a batch; the problems of parsing and of admission name it by its index."""
    with _named(index):
        job = await parse()

    def admit() -> str | None:
        with _named(index):
            return job.admit()

    return replace(job, admit=admit)


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Make the problems of a block name a job of a batch by its index; errors of the server stay as they are."""
    try:
        yield
    except ProblemError as error:
        if error.problem.status >= 500:
            raise
        problem = problem_of_part(error.problem, API_PREFIX + BATCH_PATH, "jobs", index)
        raise ProblemError(problem, error.headers) from None


async def _submitted(
    request: Request,
    body: bytes,
    caller: Principal,
    *,
    artifacts: ArtifactService,
    memory: Callable[[], int | None] | None = None,
) -> SubmittedJob:
    if await _is_expensive(request, body):
        reply = await _run_task(request, "submission", body=body, caller=caller)
        refusal, plan = reply.fields["refusal"], reply.fields["plan"]
        fields = {name: value for name, value in reply.fields.items() if name not in ("refusal", "plan")}
        submission = Submission(text=bytes(reply.content).decode(), **fields)
        return SubmittedJob(submission, _with_receiver(request, submission, partial(_admitted, refusal, plan)))

    def parse_job() -> SubmittedJob:
        message, admission = _parse(request, body, artifacts, memory)
        submission = Submission.of(message)
        return SubmittedJob(submission, _with_receiver(request, submission, partial(_planned, admission, message)))

    return await run_in_threadpool(parse_job)


async def estimate_of_body(request: Request, caller: CurrentPrincipal, artifacts: Artifacts) -> CostEstimate:
    """Return the cost of the job in the body of the request; a dependency of routes."""
    body = await json_body(request)
    if await _is_expensive(request, body):
        reply = await _run_task(request, "estimate", body=body, caller=caller)
        return CostEstimate.model_validate_json(bytes(reply.content))

    def estimate() -> CostEstimate:
        message, admission = _parse(request, body, artifacts)
        return admission.estimate(message)

    return await run_in_threadpool(estimate)


class Admission:
    """Compares the cost of a caller's job with the resources of the workers.

    Args:
        available_bytes: Returns the memory of the smallest worker, as `RecentWorkers.available_bytes` does.
        artifacts: The artifacts of the caller.
        job_seconds: Most seconds that one job may take.
    """

    def __init__(
        self, available_bytes: Callable[[], int | None], artifacts: ArtifactService, job_seconds: float
    ) -> None:
        self._available_bytes = available_bytes
        self._job_seconds = job_seconds
        self._artifacts = artifacts

    def check(self, request: AnyJobRequest) -> JobPlan | None:
        """Plan a job that fits every worker, since any may take it; without workers every job waits for one.

        A worker whose memory differs plans the job again before it starts.

        Args:
            request: The validated request.

        Returns:
            The plan; None without workers.

        Raises:
            ProblemError: 422 at the field that makes the job too large, does not fit the uploaded tokens, or exceeds
                the time limit.
            RedisError: Redis does not answer.
        """
        self._check_tokens(request)
        if (request.time_limit_seconds or 0.0) > self._job_seconds:
            raise invalid_field(
                ("time_limit_seconds",), f"jobs on this server may run for at most {self._job_seconds:.15g} s"
            )
        self._check_seconds(request)
        available = self._available_bytes()
        if available is None:
            return None
        canonical = request.canonical()  # workers compute the canonical request
        plan = plan_job(canonical, available)
        error = memory_error(canonical, plan)
        if error is not None:
            raise ProblemError(invalid_request([error]))
        return plan

    def _check_seconds(self, request: AnyJobRequest) -> None:
        """Refuse an experiment that takes longer than jobs may, even on the fastest GPU if it can use one."""
        if not isinstance(request, ExperimentRequest) or request.seconds is None:
            return
        on_gpu, own_limit = request.gpu_seconds, request.time_limit_seconds or self._job_seconds
        limit = min(self._job_seconds, own_limit)
        if (request.seconds - on_gpu) / _INACCURACY + on_gpu / _FASTEST > limit:
            remedy = "choose smaller sizes" + (" or a longer time limit" if own_limit < self._job_seconds else "")
            message = f"takes about {_duration(request.seconds)} on two cores; jobs may run for {_duration(limit)}"
            raise invalid_field(request.location_of_sizes, f"{message}: {remedy}")

    def estimate(self, request: AnyJobRequest) -> CostEstimate:
        """Estimate the cost of a job on the present workers.

        Args:
            request: The validated request.

        Returns:
            Memory, products and micro-batches, and whether the job fits.

        Raises:
            ProblemError: 422 at a field that does not fit the uploaded tokens.
            RedisError: Redis does not answer.
        """
        self._check_tokens(request)
        available = self._available_bytes()
        estimate = plan_job(request, available).whole
        return CostEstimate(
            num_parameters=estimate.num_parameters,
            num_products=estimate.num_products,
            num_training_passes=estimate.num_training_passes,
            peak_bytes=estimate.peak_bytes,
            micro_batch_size=estimate.micro_batch_size,
            worker_memory_bytes=available,
            fits=None if available is None else estimate.peak_bytes <= available,
            parameter_shapes=_parameter_shapes(request),
            seconds=request.seconds if isinstance(request, ExperimentRequest) else None,
            summary=_summary(estimate, available),
        )

    def _check_tokens(self, request: AnyJobRequest) -> None:
        if isinstance(request, ExperimentRequest):
            for computation in request.computations:
                if isinstance(computation, SpectrumRequest):
                    self._check_tokens(computation)
            return
        if not isinstance(request.data, TokenData):
            return
        single = isinstance(request, SpectrumRequest)
        models: list[Model] = [request.model] if isinstance(request, SpectrumRequest) else [*request.models]
        for index, model in enumerate(models):
            self._check_tokens_of(("model",) if single else ("models", index), model, request.data)

    def _check_tokens_of(self, path: tuple[str | int, ...], model: Model, data: TokenData) -> None:
        try:
            tokens = self._artifacts.get(data.id)
        except UnknownArtifactError:
            raise invalid_field(("data", "id"), "there is no such artifact: upload the tokens first") from None
        if not isinstance(tokens, TokenArtifact):
            raise invalid_field(("data", "id"), "this artifact holds arrays instead of tokens")
        if tokens.num_tokens <= data.sequence_length:
            message = (
                f"there are only {tokens.num_tokens} tokens; a sequence needs one more than its length for its targets"
            )
            raise invalid_field(("data", "sequence_length"), message)
        if isinstance(model, Gpt2 | CausalLm) and tokens.largest_token >= model.vocab_size:
            message = f"tokens outside the vocabulary: the largest is {tokens.largest_token}"
            raise invalid_field((*path, "vocab_size"), message)


def _duration(seconds: float) -> str:
    for unit, length, least in (("years", 365.25 * 86400, 2), ("days", 86400, 10), ("hours", 3600, 1)):
        if seconds >= least * length:
            return f"{float(f'{seconds / length:.3g}'):,g} {unit}"
    return f"{seconds:.3g} s"


def _parameter_shapes(request: AnyJobRequest) -> dict[str, list[int]] | None:
    if not isinstance(request, SpectrumRequest):
        return None
    return {name: list(shape) for name, shape in request.matrix_parameters.items()}


def _summary(estimate: ComputationPlan, available: int | None) -> str:
    taken = (
        f"{estimate.num_parameters:,} parameters, up to {estimate.num_products:,} matrix-vector products, "
        f"about {gibibytes(estimate.peak_bytes)}"
    )
    if estimate.num_training_passes:
        taken += f", after {estimate.num_training_passes:,.6g} passes over the data in training"
    if estimate.num_batches > 1:
        taken += f", in {estimate.num_batches:,} micro-batches of {estimate.micro_batch_size:,}"
    if available is None:
        return f"{taken}; no worker is present, so it is unknown whether the job fits."
    verdict = "the job fits" if estimate.peak_bytes <= available else "the job is too large"
    return f"{taken}; a worker has {gibibytes(available)}: {verdict}."


def _parse(
    request: Request, body: bytes, artifacts: ArtifactService, memory: Callable[[], int | None] | None = None
) -> tuple[AnyJobRequest, Admission]:
    context = service_context(request)
    memory = memory or context.workers.available_bytes
    admission = Admission(memory, artifacts, context.settings.job_seconds)
    return parse_body(body, JobRequest, {CHECKPOINTS: context.models, ARTIFACTS: artifacts}).root, admission


async def _run_task(request: Request, task: str, *, body: bytes, caller: CurrentPrincipal) -> Reply:
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
        "available_bytes": await run_in_threadpool(context.workers.available_bytes),
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
    if len(body) > LARGE_BODY_BYTES or LARGE_GRID < _num_grid_points(body) <= MAX_POINTS:
        return True
    names = _checkpoint_names(body)
    if not names:
        return False
    models = service_context(request).models
    return await run_in_threadpool(lambda: max(map(models.num_header_bytes, names))) > LARGE_HEADER_BYTES


def _num_grid_points(body: bytes) -> int:
    """Return the number of points of the sweep that the body may ask for: its lists of values multiply."""
    over = _fields(body, b"over").get("over")
    return prod(len(each) for each in over.values() if isinstance(each, list)) if isinstance(over, dict) else 1


def _checkpoint_names(body: bytes) -> set[str]:
    """Return the names of checkpoints that the body may mean."""
    fields = _fields(body, b"checkpoint")
    several = fields.get("models")
    models = [fields.get("model"), *(several if isinstance(several, list) else ())]
    names = (model.get("checkpoint") for model in models if isinstance(model, dict))
    return {name for name in names if isinstance(name, str)}


def _fields(body: bytes, name: bytes) -> dict[str, Any]:
    """Return the fields of the body if a field of such a name may be in it; errors are reported when it is parsed."""
    if name not in body and rb"\u" not in body:
        return {}
    check_json(body)
    try:
        document = from_json(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _with_receiver(
    request: Request, submission: Submission, admit: Callable[[], str | None]
) -> Callable[[], str | None]:
    """Return an `admit` that also refuses a webhook whose receiver is not listed."""
    receivers = service_context(request).settings.webhook_receivers

    def admit_with_receiver() -> str | None:
        if submission.webhook is not None and not is_receiver(submission.webhook, receivers):
            allowed = "this server sends messages only to hosts that its operator has listed"
            raise invalid_field(("webhook",), allowed if receivers else "this server sends no messages")
        return admit()

    return admit_with_receiver


def _planned(admission: Admission, message: AnyJobRequest) -> str | None:
    plan = admission.check(message)
    return None if plan is None else stored_plan(plan)


def _admitted(refusal: dict[str, Any] | None, plan: str | None) -> str | None:
    if refusal is not None:
        raise ProblemError(Problem.model_validate(refusal))
    return plan
