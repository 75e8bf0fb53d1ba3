"""An operation is awaited as it would be without the limit, unless it takes too long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hessian_spectrum.service.middleware.time_limit import within


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def in_time() -> Any:
        async with asyncio.timeout(30):
            return await test()

    return asyncio.run(in_time())


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def after(pauses: list[float], result: object = "done") -> object:
    for pause in pauses:
        await asyncio.sleep(pause)
    if isinstance(result, Exception):
        raise result
    return result


@pytest.mark.parametrize("pauses", [[], [0], [0, 0], [0.01, 0, 0.01]])
def test_results_and_errors_come_through(pauses: list[float]) -> None:
    async def test() -> None:
        assert await within(soon(20), after(pauses)) == "done"
        with pytest.raises(KeyError):
            await within(soon(20), after(pauses, KeyError()))

    run(test)


def test_what_need_not_wait_is_done_after_its_deadline_too() -> None:
    async def test() -> object:
        return await within(soon(-1), after([]))

    assert run(test) == "done"


def test_no_timer_is_set_for_what_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = []
    monkeypatch.setattr(asyncio, "timeout_at", lambda when: timers.append(when) or asyncio.timeout(20))

    async def test() -> None:
        await within(soon(20), after([]))
        assert not timers
        await within(soon(20), after([0]))
        assert len(timers) == 1

    run(test)


@pytest.mark.parametrize("pauses", [[60], [0, 60], [0.01, 60]])
def test_what_takes_too_long_is_cancelled(pauses: list[float]) -> None:
    is_cancelled = False

    async def operation() -> None:
        nonlocal is_cancelled
        try:
            await after(pauses)
        except asyncio.CancelledError:
            is_cancelled = True
            raise

    async def test() -> None:
        with pytest.raises(TimeoutError):
            await within(soon(0.05), operation())

    run(test)
    assert is_cancelled


def test_a_cancelled_task_is_cancelled_inside() -> None:
    """An operation may clean up, with waits of its own, before it ends."""
    steps = []

    async def operation() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    async def test() -> None:
        task = asyncio.create_task(within(soon(20), operation()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)
    assert steps == ["cleaned up"]


def test_an_operation_may_answer_a_cancellation_with_a_result() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "stays"
        raise AssertionError

    async def test() -> object:
        task = asyncio.create_task(within(soon(20), stubborn()))
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    assert run(test) == "stays"
