"""Every error of the engine becomes a problem; only lost storage is worth another attempt."""

from collections.abc import Iterator

import pytest
import torch
from redis.exceptions import ConnectionError as RedisConnectionError

from hessian_spectrum.quadrature.exceptions import CurvatureError
from hessian_spectrum.worker.failures import FailureKind, job_failure


def subclasses(kind: type[CurvatureError]) -> Iterator[type[CurvatureError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from subclasses(subclass)


@pytest.mark.parametrize("kind", list(subclasses(CurvatureError)))
def test_every_error_of_the_engine_is_the_callers_and_explained(kind: type[CurvatureError]) -> None:
    failure = job_failure(kind("widths do not fit"))
    assert failure.kind is FailureKind.USAGE
    assert failure.problem.status == 422
    assert failure.problem.detail == "widths do not fit"


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (MemoryError(), FailureKind.FATAL, 507),
        (torch.OutOfMemoryError("CUDA out of memory"), FailureKind.FATAL, 507),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureKind.FATAL, 507),
        (RedisConnectionError("gone"), FailureKind.TRANSIENT, 503),
        (OSError("no space left on device"), FailureKind.TRANSIENT, 503),
    ],
)
def test_other_errors(error: Exception, kind: FailureKind, status: int) -> None:
    failure = job_failure(error)
    assert (failure.kind, failure.problem.status) == (kind, status)


def test_an_unforeseen_error_keeps_its_text_to_itself() -> None:
    failure = job_failure(KeyError("/secret/path"))
    assert failure.kind is FailureKind.FATAL
    assert "secret" not in failure.problem.model_dump_json()
