"""The process pool: its replies, and that tasks end when nobody waits for them any more."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.service.context import TASK_MODULE
from hessian_spectrum.service.middleware.concurrency_limit import SlotPool
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.process_pool.executor import (
    REQUESTS_PER_SECOND,
    FairScheduler,
    ProcessExecutor,
    while_connected,
)
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.routes.random_matrix import render

LAW = {"law": "wigner", "num_points": 5}
LONG = {"law": "wigner", "sample": {"size": 2000}}


@asynccontextmanager
async def processes(seconds: float = 60.0) -> AsyncIterator[ProcessPool]:
    found = ProcessPool(TASK_MODULE, seconds)
    try:
        yield found
    finally:
        await found.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def pool_processes() -> set[int]:
    """Those that are children of this process."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {
        int(pid)
        for pid in children
        if b"hessian_spectrum.service.process_pool.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


async def law(pool: ProcessPool, message: dict[str, Any] = LAW) -> Any:
    reply = await pool.run("random-matrix", {"name": "json", "style": {}}, json.dumps(message).encode())
    return json.loads(bytes(reply.content))


def test_a_process_answers_as_this_one_does_and_is_kept() -> None:
    async def test() -> None:
        async with processes() as pool:
            expected = json.loads(render(RandomMatrixRequest.model_validate(LAW), "json"))
            assert await law(pool) == expected
            [kept] = pool_processes()
            picture = await pool.run("random-matrix", {"name": "png", "style": {}}, json.dumps(LAW).encode())
            assert bytes(picture.content).startswith(b"\x89PNG")
            assert pool_processes() == {kept}
            assert os.getpriority(os.PRIO_PROCESS, kept) >= 5
        assert not pool_processes()

    run(test())


def test_problems_are_those_of_a_route(tmp_path: Path) -> None:
    async def test() -> None:
        async with processes() as pool:
            with pytest.raises(ProblemError) as invalid:
                await law(pool, {"law": "wigner", "num_points": 0})
            assert invalid.value.problem.status == 422
            assert invalid.value.problem.errors is not None
            assert invalid.value.problem.errors[0].loc == ["body", "num_points"]
            with pytest.raises(ProblemError) as internal:
                await pool.run("random-matrix", {}, json.dumps(LAW).encode())
            assert (internal.value.problem.status, internal.value.problem.title) == (500, "Internal error")
            missing = {"digest": "0" * 64, "changes": {}, "name": "png", "style": {}}
            place = {"results_dir": str(tmp_path), "storage_url": None}
            assert "missing" in (await pool.run("result", missing | place)).fields["damaged"]
            assert len((await law(pool))["grid"]) == 5

    run(test())


def test_work_ends_when_its_caller_goes_and_when_it_takes_too_long() -> None:
    async def test() -> None:
        async with processes() as pool:
            await law(pool)
            [worker] = pool_processes()
            asked = asyncio.create_task(law(pool, LONG))
            await asyncio.sleep(0.1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert not Path(f"/proc/{worker}").exists()
            assert len((await law(pool))["grid"]) == 5
        async with processes(seconds=0.01) as hasty:
            with pytest.raises(ProblemError, match="takes too long"):
                await law(hasty, LONG)
        assert not pool_processes()

    run(test())


def test_a_lost_process_is_told_and_replaced() -> None:
    async def test() -> None:
        async with processes() as pool:
            await law(pool)
            [idle] = pool_processes()
            os.kill(idle, signal.SIGKILL)
            assert len((await law(pool))["grid"]) == 5  # one that ended while it was idle costs nothing
            asked = asyncio.create_task(law(pool, LONG))
            killed: set[int] = set()
            for _ in range(2):  # the one that was idle, then a new one
                while not (found := pool_processes() - killed):
                    await asyncio.sleep(0.01)
                os.kill(pid := found.pop(), signal.SIGKILL)
                killed.add(pid)
            with pytest.raises(ProblemError, match="lost") as lost:
                await asked
            assert lost.value.problem.status == 503

    run(test())


def test_a_caller_who_goes_ends_the_wait() -> None:
    async def test() -> None:
        gone = asyncio.Event()
        messages = iter([{"type": "http.request"}])

        async def receive() -> Any:
            if message := next(messages, None):
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        assert await while_connected(receive, asyncio.sleep(0, "done")) == "done"
        working = asyncio.ensure_future(asyncio.sleep(60))
        asked = asyncio.create_task(while_connected(receive, working))
        await asyncio.sleep(0.01)
        gone.set()
        with pytest.raises(ClientDisconnect):
            await asked
        assert working.cancelled()

    run(test())


def test_work_is_charged_by_its_time() -> None:
    async def test() -> None:
        charged: list[float] = []
        state = SimpleNamespace(principal=SimpleNamespace(owner="a"), charge=charged.append)
        request: Any = SimpleNamespace(state=state, receive=asyncio.Event().wait)
        executor = ProcessExecutor(FairScheduler(2, SlotPool(4)), ProcessPool(TASK_MODULE, 60.0))
        started = time.monotonic()
        await executor.run_in_thread(request, time.sleep, 0.2)
        [requests] = charged
        assert 0.2 * REQUESTS_PER_SECOND <= requests <= (time.monotonic() - started) * REQUESTS_PER_SECOND

    run(test())


class Endless(ProcessPool):
    """Says what it was asked for, and never ends."""

    def __init__(self) -> None:
        super().__init__(TASK_MODULE, 60.0)
        self.asked: list[str] = []

    async def run(self, task: str, arguments: Any, content: bytes = b"") -> Any:
        self.asked.append(task)
        await asyncio.Event().wait()


def test_what_several_keys_wait_for_is_in_the_line_of_none() -> None:
    async def test() -> None:
        state = SimpleNamespace(principal=SimpleNamespace(owner="a"), charge=lambda _: None)
        request: Any = SimpleNamespace(state=state, receive=asyncio.Event().wait)
        executor = ProcessExecutor(FairScheduler(2, SlotPool(8)), work := Endless())
        tasks = [asyncio.create_task(executor.run(request, "result", arguments={})) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(executor.run_to_end(request, "model", {})))
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert work.asked[:2] == ["result", "model"]

    run(test())


def test_an_upload_of_numbers_is_answered_alike() -> None:
    rows = np.linspace(-1, 1, 40_000).tolist()
    body = {"model": {"kind": "linear", "w": [0.5], "v": [0.25]}, "data": {"x": rows, "y": rows}}

    async def test() -> None:
        async with processes() as pool:
            reply = await pool.run("closed-form", {"name": "json", "style": {}}, json.dumps(body).encode())
            assert len(json.loads(bytes(reply.content))["eigenvalues"]) == 2

    run(test())
