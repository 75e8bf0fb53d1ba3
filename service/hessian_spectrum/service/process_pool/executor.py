"""Runs expensive work of routes: it waits for its turn, ends with its caller, and is charged to the rate limit."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from hessian_spectrum.service.process_pool.fair_scheduler import FairScheduler
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.process_pool.protocol import Reply

REQUESTS_PER_SECOND = 10.0
"""Requests for which a second of work counts in the rate limit of its caller."""

SHARED = "common"
"""Owner of tasks that callers with several keys wait for, so that none of them waits in the queue of another."""

P = ParamSpec("P")
T = TypeVar("T")


class ProcessExecutor:
    """Runs work in fair turns, in a process that can be killed or in a thread that cannot."""

    def __init__(self, scheduler: FairScheduler, pool: ProcessPool) -> None:
        self._scheduler = scheduler
        self._pool = pool

    async def run(self, request: Request, task: str, arguments: Mapping[str, Any], content: bytes = b"") -> Reply:
        """Run a task in a process, which is killed if the caller disconnects.

        Args:
            request: The request that the task belongs to.
            task: Name of a task of `process_pool/tasks.py`.
            arguments: What JSON can hold.
            content: Bytes for the task, such as a body.

        Returns:
            The reply of the task.

        Raises:
            ProblemError: The problem of the task; 429 if too many tasks wait; 503 if it takes too long or crashes.
            ClientDisconnect: The caller has disconnected.
        """
        return await self._connected(request, lambda: self._pool.run(task, arguments, content))

    async def run_to_end(self, request: Request, task: str, arguments: Mapping[str, Any]) -> Reply:
        """Run a task that others wait for, too, so that it goes on if the caller disconnects.

        Raises:
            ProblemError: As of `run`.
        """
        return await self._scheduled(request, SHARED, lambda: self._pool.run(task, arguments))

    async def run_in_thread(
        self, request: Request, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Run a function whose arguments are too large for another process; once begun it runs to its end.

        Raises:
            ProblemError: 429 if too many tasks wait.
            ClientDisconnect: The caller has disconnected.
        """
        return await self._connected(request, lambda: anyio.to_thread.run_sync(lambda: function(*arguments, **options)))

    async def _connected(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        return await while_connected(request.receive, self._scheduled(request, request.state.principal.owner, work))

    async def _scheduled(self, request: Request, owner: str | None, work: Callable[[], Awaitable[T]]) -> T:
        async with self._scheduler.slot(owner):
            started = time.monotonic()
            try:
                return await work()
            finally:
                request.state.charge(REQUESTS_PER_SECOND * (time.monotonic() - started))


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Await work that is cancelled if the caller disconnects; the body of the request must have been read.

    Raises:
        ClientDisconnect: The caller has disconnected.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
