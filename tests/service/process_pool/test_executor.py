"""Keys take turns at the slots of the process pool, and none holds all of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from hessian_spectrum.service.middleware.concurrency_limit import SlotPool
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.process_pool.executor import FairScheduler

ANNA, BOB = "a" * 12, "b" * 12


class Work:
    """Pieces of work that last until they are ended."""

    def __init__(self, num_slots: int = 2, num_waiting: int = 100) -> None:
        self.scheduler = FairScheduler(num_slots, SlotPool(num_waiting))
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def bring(self, name: str, owner: str | None) -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._work(name, owner))
        await _settled()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await _settled()

    async def leave(self, name: str) -> None:
        self._tasks[name].cancel()
        await _settled()
        assert self._tasks[name].cancelled()

    async def _work(self, name: str, owner: str | None) -> None:
        async with self.scheduler.slot(owner):
            self.begun.append(name)
            await self._ends[name].wait()


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_one_key_leaves_a_slot_to_others() -> None:
    async def test() -> None:
        work = Work()
        for number in range(45):
            await work.bring(f"anna-{number}", ANNA)
        assert work.begun == ["anna-0"]
        await work.bring("bob-0", BOB)
        await work.bring("bob-1", BOB)
        assert work.begun == ["anna-0", "bob-0"]
        await work.end("anna-0")
        assert work.begun[2:] == ["anna-1"]
        await work.end("bob-0")
        assert work.begun[3:] == ["bob-1"]

    run(test())


def test_keys_take_turns_and_each_is_served_in_order() -> None:
    async def test() -> None:
        work = Work(num_slots=2)
        for name, owner in (("a0", ANNA), ("c0", "c"), ("a1", ANNA), ("a2", ANNA), ("b0", BOB), ("d0", "d")):
            await work.bring(name, owner)
        assert work.begun == ["a0", "c0"]
        await work.end("c0")
        await work.end("b0")
        await work.end("a0")
        await work.end("d0")
        assert work.begun == ["a0", "c0", "b0", "d0", "a1"]  # not a2 beside a1: the second place is for others
        await work.end("a1")
        assert work.begun[5:] == ["a2"]

    run(test())


def test_without_keys_all_slots_are_taken() -> None:
    async def test() -> None:
        work = Work(num_slots=3)
        for number in range(5):
            await work.bring(str(number), None)
        assert work.begun == ["0", "1", "2"]
        await work.end("1")
        assert work.begun[3:] == ["3"]

    run(test())


def test_a_cancelled_task_gives_its_slot_and_its_turn_back() -> None:
    async def test() -> None:
        work = Work(num_waiting=4)
        for name in ("a0", "a1", "a2"):
            await work.bring(name, ANNA)
        with pytest.raises(ProblemError) as refusal:  # three of four places are one key's
            async with work.scheduler.slot(ANNA):
                raise AssertionError
        assert refusal.value.problem.status == 429
        assert refusal.value.headers == {"Retry-After": "5"}
        await work.leave("a1")
        await work.bring("a3", ANNA)
        await work.leave("a0")
        assert work.begun == ["a0", "a2"]
        await work.end("a2")
        assert work.begun[2:] == ["a3"]
        await work.end("a3")
        assert not work.scheduler._waiting
        assert work.scheduler._running.total() == 0

    run(test())


def test_a_task_cancelled_as_it_is_woken_passes_the_slot_on() -> None:
    async def test() -> None:
        work = Work()
        for name in ("a0", "a1", "a2"):
            await work.bring(name, ANNA)
        work._ends["a0"].set()
        await asyncio.sleep(0)  # its end calls a1, which leaves before it hears of that
        work._tasks["a1"].cancel()
        await _settled()
        assert work.begun[-1] == "a2"
        await work.end("a2")
        assert work.scheduler._running.total() == 0

    run(test())


def test_who_leaves_in_the_moment_of_a_call_keeps_no_place() -> None:
    async def test() -> None:
        work = Work()
        for name in ("a0", "a1", "a2", "a3"):
            await work.bring(name, ANNA)
        work._ends["a0"].set()
        work._tasks["a1"].cancel()  # hears of it only after a0 has called the next one
        await _settled()
        await work._tasks["a0"]
        assert work.begun == ["a0", "a2"]
        work._tasks["a3"].cancel()
        await work.end("a2")
        assert work.scheduler._running.total() == 0
        assert not work.scheduler._waiting

    run(test())
