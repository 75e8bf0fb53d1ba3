"""Reasons for the failure of a job: every exception of a computation is translated here."""

import enum
import errno
import logging

from pydantic import ValidationError
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.checkpoints import CheckpointError
from hessian_spectrum.api_schemas.problem import FieldError, Problem
from hessian_spectrum.curvature.operators.products import is_memory_error
from hessian_spectrum.quadrature.exceptions import CurvatureError

_MAX_DETAIL = 1000

REQUEST_OUTDATED = Problem(
    type="/problems/request-outdated", title="This worker does not understand the request", status=422
)
"""The problem of a job whose request another version of the service wrote."""

_logger = logging.getLogger(__name__)


class JobCancelledError(Exception):
    """Raised in a computation to end it when the job was cancelled."""


class WorkerStoppingError(Exception):
    """Raised in a computation when the worker must stop; the job continues in another process."""


class FailureKind(enum.Enum):
    """Cause of a failure, which decides whether another attempt can help."""

    USAGE = "usage"
    TRANSIENT = "transient"
    FATAL = "fatal"


class JobFailure(Exception):
    """A job that ends without a result; only a transient one is tried again."""

    def __init__(self, kind: FailureKind, problem: Problem) -> None:
        super().__init__(problem.title)
        self.kind = kind
        self.problem = problem


def job_failure(error: Exception) -> JobFailure:
    """Return the failure of a job for an exception of its computation."""
    if isinstance(error, JobFailure):
        return error
    if isinstance(error, CheckpointError):
        return _failure(
            FailureKind.USAGE,
            "checkpoint-unusable",
            title="The checkpoint cannot be loaded",
            status=422,
            detail=str(error),
        )
    if isinstance(error, CurvatureError | ValidationError):
        # a ValidationError comes from the result: messages refuse numbers that JSON cannot hold
        own = isinstance(error, CurvatureError)
        detail = str(error) if own else "A number of the result is beyond floating point."
        return _failure(
            FailureKind.USAGE, "spectrum-undefined", title="The spectrum cannot be computed", status=422, detail=detail
        )
    if is_memory_error(error):
        return _failure(FailureKind.FATAL, "out-of-memory", title="The worker ran out of memory", status=507)
    if isinstance(error, RedisError | OSError):
        return _storage_failure(error)
    _logger.exception("unforeseen error", exc_info=error)
    return _failure(
        FailureKind.FATAL, "internal", title="Internal error in the worker", status=500, detail=type(error).__name__
    )


def too_large(error: FieldError) -> JobFailure:
    """Return the failure of a job that needs more memory than this worker has."""
    return _failure(
        FailureKind.USAGE, "too-large", title="The job is too large for this worker", status=422, detail=error.msg
    )


def out_of_time(limit_seconds: float) -> JobFailure:
    """Return the failure of a job that ran longer than allowed."""
    detail = f"It had not ended after {limit_seconds:,.6g} s, counted over all attempts."
    return _failure(FailureKind.USAGE, "time-limit", title="The job ran longer than it may", status=422, detail=detail)


def _storage_failure(error: RedisError | OSError) -> JobFailure:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failure(FailureKind.TRANSIENT, "storage-full", title="There was no space for the result", status=507)
    return _failure(
        FailureKind.TRANSIENT, "worker-unavailable", title="The worker lost its storage", status=503, detail=str(error)
    )


def _failure(kind: FailureKind, name: str, *, title: str, status: int, detail: str | None = None) -> JobFailure:
    short = detail[:_MAX_DETAIL] if detail else None
    return JobFailure(kind, Problem(type=f"/problems/{name}", title=title, status=status, detail=short))
