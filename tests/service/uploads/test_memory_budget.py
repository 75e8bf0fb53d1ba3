"""Uploads share a budget of memory."""

import pytest

from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget


def test_what_is_not_free_is_refused_for_now_and_what_never_will_be_for_good() -> None:
    budget = MemoryBudget(100)
    with budget.reservation() as first, budget.reservation() as second:
        first.grow(60)
        with pytest.raises(ProblemError) as busy:
            second.grow(50)
        assert busy.value.problem.status == 503
        assert busy.value.headers == {"Retry-After": "5"}
        second.grow(40)
        with pytest.raises(ProblemError) as never:
            second.grow(61)
        assert never.value.problem.status == 413
    with budget.reservation() as third:
        third.grow(100)


def test_memory_comes_back_after_an_error() -> None:
    budget = MemoryBudget(100)

    def fail() -> None:
        with budget.reservation() as reservation:
            reservation.grow(100)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
