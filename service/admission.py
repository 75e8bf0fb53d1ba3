"""Whether a job can be computed here at all, before anything is queued."""

import redis

from api_schemas.estimates import CostEstimate
from api_schemas.job_requests import AnyJobRequest
from jobs.estimate import JobEstimate, gibibytes
from jobs.job_estimate import job_estimate, job_memory_error
from jobs.presence import present_workers
from service.problems import ProblemError, invalid_request


class Admission:
    """Compares what a job takes with what the workers have."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def check(self, request: AnyJobRequest) -> None:
        """Let a job pass that fits every worker, as any may take it; without a worker it passes and waits for one.

        A worker looks again before it begins.

        Raises:  ProblemError 422 at the field that makes the job too large, with the estimate; RedisError.
        """
        available = self._available_bytes()
        if available is None:
            return
        error = job_memory_error(request, available)
        if error is not None:
            raise ProblemError(invalid_request([error]))

    def estimated(self, request: AnyJobRequest) -> CostEstimate:
        """What the job would take on the workers that are there.

        Raises:  RedisError.
        """
        available = self._available_bytes()
        found = job_estimate(request, available)
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

    def _available_bytes(self) -> int | None:
        return min((worker.memory_bytes for worker in present_workers(self._client)), default=None)


def _summary(found: JobEstimate, available: int | None) -> str:
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
