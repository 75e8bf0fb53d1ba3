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


def test_several_uploads_of_one_key_leave_a_quarter_to_others() -> None:
    budget = MemoryBudget(100)
    with budget.reservation("anna") as large:
        large.grow(50)
        large.grow(50)  # nobody else is there
    with budget.reservation("anna") as first, budget.reservation("anna") as second, budget.reservation("bob") as other:
        first.grow(50)
        with pytest.raises(ProblemError) as busy:
            second.grow(50)
        assert busy.value.problem.status == 503
        other.grow(50)
        second.grow(0)
    with budget.reservation() as anyone, budget.reservation() as anyone_else:
        anyone.grow(60)
        anyone_else.grow(40)
