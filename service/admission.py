"""Whether a job can be computed here at all, before anything is queued."""

import redis

from api_schemas.spectrum import SpectrumRequest
from jobs.estimate import memory_error
from jobs.presence import present_workers
from service.problems import ProblemError, invalid_request


class Admission:
    """Compares what a job takes with what the workers have."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def check(self, request: SpectrumRequest) -> None:
        """Let a job pass that fits every worker, as any may take it; without a worker it passes and waits for one.

        A worker looks again before it begins.

        Raises:  ProblemError 422 at the field that makes the job too large, with the estimate; RedisError.
        """
        workers = present_workers(self._client)
        if not workers:
            return
        error = memory_error(request, min(worker.memory_bytes for worker in workers))
        if error is not None:
            raise ProblemError(invalid_request([error]))
