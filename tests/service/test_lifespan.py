"""What goes on beside requests ends with the service."""

import asyncio

import pytest

from hessian_spectrum.service.lifespan import background_tasks


def test_work_that_overhears_a_cancellation_ends_all_the_same() -> None:
    cancelled = 0

    async def overhear() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1

    async def serve() -> None:
        async with asyncio.timeout(30), background_tasks(overhear(), asyncio.sleep(60)):
            await asyncio.sleep(0)

    asyncio.run(serve())
    assert cancelled == 3


def test_work_that_fails_is_told_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("no space")

    async def serve() -> None:
        async with asyncio.timeout(30), background_tasks(fail()):
            await asyncio.sleep(0.01)
            assert "no space" in caplog.text

    asyncio.run(serve())
