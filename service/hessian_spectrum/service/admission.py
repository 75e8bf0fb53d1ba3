"""Whether a job can be computed here at all, before anything is queued."""

from collections.abc import Callable

import redis

from hessian_spectrum.api_schemas.artifacts import TokenArtifact
from hessian_spectrum.api_schemas.data import TokenData
from hessian_spectrum.api_schemas.estimates import CostEstimate
from hessian_spectrum.api_schemas.job_requests import AnyJobRequest
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.estimate import gibibytes
from hessian_spectrum.jobs.planner import memory_error, plan_job
from hessian_spectrum.jobs.worker_registry import registered_workers
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.service.problems import ProblemError, invalid_field, invalid_request
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.storage.artifacts import UnknownArtifactError


class Admission:
    """Compares what a job of one caller takes with what the workers have.

    Args:
        available_bytes: As `available_bytes` says it.
    """

    def __init__(
        self, available_bytes: Callable[[], int | None], artifacts: ArtifactService, job_seconds: float
    ) -> None:
        self._available_bytes = available_bytes
        self._job_seconds = job_seconds
        self._artifacts = artifacts

    def check(self, request: AnyJobRequest) -> JobPlan | None:
        """Plan a job that fits every worker, as any may take it; None without a worker, for which it then waits.

        A worker with other memory plans again before it begins.

        Raises:
            ProblemError: 422 at the field that makes the job too large, with the estimate, at what does not fit the
                uploaded tokens, or at a time that no job may take.
            RedisError: Redis does not answer.
        """
        self._check_tokens(request)
        if (request.time_limit_seconds or 0.0) > self._job_seconds:
            raise invalid_field(("time_limit_seconds",), f"this server lets no job run over {self._job_seconds:.15g} s")
        available = self._available_bytes()
        if available is None:
            return None
        canonical = request.canonical()  # which is what workers compute
        plan = plan_job(canonical, available)
        error = memory_error(canonical, plan)
        if error is not None:
            raise ProblemError(invalid_request([error]))
        return plan

    def estimated(self, request: AnyJobRequest) -> CostEstimate:
        """What the job would take on the workers that are there.

        Raises:
            ProblemError: 422 at what does not fit the uploaded tokens.
            RedisError: Redis does not answer.
        """
        self._check_tokens(request)
        available = self._available_bytes()
        found = plan_job(request, available).whole
        return CostEstimate(
            num_parameters=found.num_parameters,
            num_products=found.num_products,
            num_training_passes=found.num_training_passes,
            peak_bytes=found.peak_bytes,
            micro_batch_size=found.micro_batch_size,
            worker_memory_bytes=available,
            fits=None if available is None else found.peak_bytes <= available,
            summary=_summary(found, available),
        )

    def _check_tokens(self, request: AnyJobRequest) -> None:
        if not isinstance(request.data, TokenData):
            return
        single = isinstance(request, SpectrumRequest)
        models: list[Model] = [request.model] if isinstance(request, SpectrumRequest) else [*request.models]
        for index, model in enumerate(models):
            self._check_tokens_of(("model",) if single else ("models", index), model, request.data)

    def _check_tokens_of(self, place: tuple[str | int, ...], model: Model, data: TokenData) -> None:
        try:
            tokens = self._artifacts.get(data.id)
        except UnknownArtifactError:
            raise invalid_field(("data", "id"), "there is no such artifact: upload the tokens first") from None
        if not isinstance(tokens, TokenArtifact):
            raise invalid_field(("data", "id"), "this artifact holds arrays, and num_sequences are of tokens")
        if tokens.num_tokens <= data.sequence_length:
            message = (
                f"there are {tokens.num_tokens} tokens, a sequence with its targets needs one more than its length"
            )
            raise invalid_field(("data", "sequence_length"), message)
        if isinstance(model, Gpt2 | CausalLm) and tokens.largest_token >= model.vocab_size:
            message = f"tokens outside the vocabulary: the largest is {tokens.largest_token}"
            raise invalid_field((*place, "vocab_size"), message)


def available_bytes(client: redis.Redis) -> int | None:
    """Memory of one job at the worker that has the least, as any may take it; None: no worker is there.

    Raises:
        RedisError: Redis does not answer.
    """
    return min((worker.memory_bytes for worker in registered_workers(client)), default=None)


def _summary(found: ComputationPlan, available: int | None) -> str:
    taken = (
        f"{found.num_parameters:,} parameters, up to {found.num_products:,} matrix-vector products, "
        f"about {gibibytes(found.peak_bytes)}"
    )
    if found.num_training_passes:
        taken += f", after {found.num_training_passes:,.6g} passes over the data in training"
    if found.num_batches > 1:
        taken += f", in {found.num_batches:,} micro-batches of {found.micro_batch_size:,}"
    if available is None:
        return f"{taken}; no worker is there to compare with."
    verdict = "the job fits" if found.peak_bytes <= available else "the job is too large"
    return f"{taken}; a worker has {gibibytes(available)}: {verdict}."
