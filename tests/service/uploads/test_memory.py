"""Uploads share a budget of memory."""

import pytest

from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.memory import UploadMemory


def test_what_is_not_free_is_refused_for_now_and_what_never_will_be_for_good() -> None:
    memory = UploadMemory(100)
    with memory.lease() as first, memory.lease() as second:
        first.take(60)
        with pytest.raises(ProblemError) as busy:
            second.take(50)
        assert busy.value.problem.status == 503
        assert busy.value.headers == {"Retry-After": "5"}
        second.take(40)
        with pytest.raises(ProblemError) as never:
            second.take(61)
        assert never.value.problem.status == 413
    with memory.lease() as third:
        third.take(100)


def test_memory_comes_back_after_an_error() -> None:
    memory = UploadMemory(100)

    def fail() -> None:
        with memory.lease() as lease:
            lease.take(100)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()


def test_several_uploads_of_one_key_leave_a_quarter_to_others() -> None:
    memory = UploadMemory(100)
    with memory.lease("anna") as large:
        large.take(50)
        large.take(50)  # nobody else is there
    with memory.lease("anna") as first, memory.lease("anna") as second, memory.lease("bob") as other:
        first.take(50)
        with pytest.raises(ProblemError) as busy:
            second.take(50)
        assert busy.value.problem.status == 503
        other.take(50)
        second.take(0)
    with memory.lease() as anyone, memory.lease() as anyone_else:
        anyone.take(60)
        anyone_else.take(40)
