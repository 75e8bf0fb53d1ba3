"""Slots for requests that are worked on and for those that wait, of which no key holds all."""

import pytest

from hessian_spectrum.service.middleware.concurrency_limit import RequestSlots
from hessian_spectrum.service.problems import ProblemError


def test_one_key_leaves_slots_to_others_and_all_are_released() -> None:
    slots = RequestSlots(max_requests=8, max_waiting_requests=4)
    held = [slots.acquire("greedy") for _ in range(6)]
    with pytest.raises(ProblemError) as refused:
        slots.acquire("greedy")
    assert refused.value.problem.status == 503
    held += [slots.acquire(owner) for owner in ("other", None)]
    with pytest.raises(ProblemError):
        slots.acquire(None)
    assert slots.active.num_taken == 8
    for slot in held:
        slot.release()
    assert slots.active.num_taken == 0
    assert slots.active.has_free_slot("greedy")


def test_a_request_that_waits_frees_its_slot_for_others() -> None:
    slots = RequestSlots(max_requests=2, max_waiting_requests=4)
    held = []
    for _ in range(3):
        held.append(slots.acquire("greedy"))
        held[-1].start_waiting()
    held.append(slots.acquire("greedy"))
    assert not held[-1].may_wait()
    with pytest.raises(ProblemError) as refused:
        held[-1].start_waiting()
    assert refused.value.problem.status == 429
    held.append(slots.acquire("other"))
    held[-1].start_waiting()
    assert held[0].may_wait()
    held[0].start_waiting()
    assert (slots.active.num_taken, slots.waiting.num_taken) == (1, 4)
    for slot in held:
        slot.release()
    assert (slots.active.num_taken, slots.waiting.num_taken) == (0, 0)


def test_without_keys_all_slots_are_for_whoever_comes() -> None:
    slots = RequestSlots(max_requests=4, max_waiting_requests=0)
    for _ in range(4):
        slots.acquire(None)
    assert slots.active.num_taken == 4
