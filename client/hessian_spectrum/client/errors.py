"""Exceptions of the client, in one tree."""

import httpx

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.api_schemas.problem import Problem


class SpectrumClientError(Exception):
    """Base of the client's errors."""


class ServerUnreachableError(SpectrumClientError):
    """The server did not answer in time, or not at all."""


class ProblemResponseError(SpectrumClientError):
    """The server refused the request.

    Attributes:
        problem: Why it was refused.
        retry_after_seconds: Time in seconds after which the server accepts the request; None if it did not say.
    """

    def __init__(self, problem: Problem, *, retry_after_seconds: float | None = None) -> None:
        lines = [f"{problem.status} {problem.title}"]
        if problem.errors:
            lines += [f"  {'.'.join(map(str, error.loc))}: {error.msg}" for error in problem.errors]
        elif problem.detail:
            lines.append(f"  {problem.detail}")
        super().__init__("\n".join(lines))
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds


class ServerOutageError(ServerUnreachableError):
    """The server did not answer for so long that following the job ended; the job itself continues."""

    def __init__(self, job_id: str, seconds: float, error: SpectrumClientError) -> None:
        super().__init__(f"no answer about job {job_id} for {seconds:.0f} s, the last try: {error}")
        self.job_id = job_id


JobOutOfSightError = ServerOutageError
"""Former name of `ServerOutageError`."""


class JobFailedError(SpectrumClientError):
    """The job ended without a result."""

    def __init__(self, job: Job) -> None:
        detail = f": {job.error.title}. {job.error.detail or ''}".rstrip() if job.error else ""
        super().__init__(f"job {job.id} {job.state}{detail}")
        self.job = job


class JobTimeoutError(SpectrumClientError, TimeoutError):
    """The job had not ended when the time was over; it goes on."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"job {job.id} has not ended within {seconds:g} s: it is {job.state}")
        self.job = job


def unreachable(base_url: httpx.URL, error: httpx.HTTPError) -> ServerUnreachableError:
    """Return the error for a request that failed in transport."""
    return ServerUnreachableError(f"{base_url} does not answer: {error or type(error).__name__}")


def to_client_error(base_url: httpx.URL, error: httpx.HTTPError | ProblemResponseError) -> SpectrumClientError:
    """Return the error for a request that failed in transport or was refused."""
    return error if isinstance(error, ProblemResponseError) else unreachable(base_url, error)
