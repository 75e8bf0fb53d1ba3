"""Admission of jobs: the planned cost of a request is compared with the memory of the workers that are present."""

from collections.abc import Callable

import redis

from hessian_spectrum.api_schemas.artifacts import TokenArtifact
from hessian_spectrum.api_schemas.data import TokenData
from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, CostEstimate
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.plans import gibibytes, memory_error, plan_job
from hessian_spectrum.jobs.worker_registry import registered_workers
from hessian_spectrum.planning.job_plan import ComputationPlan, JobPlan
from hessian_spectrum.service.problems import ProblemError, invalid_field, invalid_request
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.storage.artifacts import UnknownArtifactError


class Admission:
    """Compares the cost of a caller's job with the resources of the workers.

    Args:
        available_bytes: Returns the memory of the smallest worker, as `available_bytes` does.
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
        available = self._available_bytes()
        if available is None:
            return None
        canonical = request.canonical()  # workers compute the canonical request
        plan = plan_job(canonical, available)
        error = memory_error(canonical, plan)
        if error is not None:
            raise ProblemError(invalid_request([error]))
        return plan

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
            summary=_summary(estimate, available),
        )

    def _check_tokens(self, request: AnyJobRequest) -> None:
        if isinstance(request, ExperimentRequest):
            for point in request.points:
                self._check_tokens(point)
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


def available_bytes(client: redis.Redis) -> int | None:
    """Read the memory that a job can count on.

    Args:
        client: A client of Redis.

    Returns:
        Bytes of one job at the worker with the least memory, since any may take it; None without workers.

    Raises:
        RedisError: Redis does not answer.
    """
    return min((worker.memory_bytes for worker in registered_workers(client)), default=None)


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
