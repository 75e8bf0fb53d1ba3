"""Execution of expensive work of routes: API keys take turns; work ends with its caller, whose rate limit it uses."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.middleware.concurrency_limit import SlotPool
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.process_pool.worker import Reply

REQUESTS_PER_SECOND = 10.0
"""Number of requests that a second of work counts for in the rate limit of its caller."""

SHARED = "common"
"""Owner of tasks that several API keys wait for, so that no key waits in the queue of another."""

P = ParamSpec("P")
T = TypeVar("T")

Waiting = deque[asyncio.Future[None]]


class ProcessExecutor:
    """Runs work in fair turns, in a process that can be killed or in a thread that cannot."""

    def __init__(self, scheduler: "FairScheduler", pool: ProcessPool) -> None:
        self._scheduler = scheduler
        self._pool = pool

    async def run(self, request: Request, task: str, *, arguments: Mapping[str, Any], content: bytes = b"") -> Reply:
        """Run a task in a process, which is killed if the caller disconnects.

        Args:
            request: The request that the task belongs to.
            task: Name of a task of `tasks.py`.
            arguments: Values that JSON can represent.
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

        Returns:
            The reply of the task.

        Raises:
            ProblemError: The problem of the task; 429 if too many tasks wait; 503 if it takes too long or crashes.
        """
        return await self._scheduled(request, SHARED, lambda: self._pool.run(task, arguments))

    async def run_in_thread(
        self, request: Request, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Run a function whose arguments are too large for another process; once begun it runs to its end.

        Args:
            request: The request that the work belongs to.
            function: The function.
            *arguments: Its positional arguments.
            **options: Its keyword arguments.

        Returns:
            What the function returns.

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

    Args:
        receive: The `receive` of the request.
        work: The awaitable.

    Returns:
        The result of the work.

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


class FairScheduler:
    """Runs a limited number of tasks at once, all but one of which may belong to one key.

    Args:
        num_slots: Tasks that run at once.
        pool: Slots of the tasks that wait or run.
    """

    def __init__(self, num_slots: int, pool: SlotPool) -> None:
        self._num_slots = num_slots
        self._pool = pool
        self._running: Counter[str | None] = Counter()
        self._waiting: dict[str | None, Waiting] = {}
        """Waiting tasks by key; the key whose turn is next comes first."""

    @asynccontextmanager
    async def slot(self, owner: str | None) -> AsyncIterator[None]:
        """Wait for a slot and hold it inside of the block.

        Args:
            owner: The id of the key; None for callers without a key, who may hold all slots.

        Raises:
            ProblemError: 429 if too many tasks wait.
        """
        if not self._pool.has_free_slot(owner):
            raise _too_many_waiting()
        self._pool.take(owner)
        try:
            await self._acquire(owner)
            try:
                yield
            finally:
                self._running[owner] -= 1
                self._wake_next()
        finally:
            self._pool.release(owner)

    async def _acquire(self, owner: str | None) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(woken)
        self._wake_next()
        try:
            await woken
        except asyncio.CancelledError:
            if woken.cancelled():
                self._forget_cancelled()
            else:  # woken at the same moment: the slot goes to the next one
                self._running[owner] -= 1
                self._wake_next()
            raise

    def _wake_next(self) -> None:
        """Give free slots to the tasks whose turn it is."""
        while self._running.total() < self._num_slots:
            self._forget_cancelled()
            ready = [owner for owner in self._waiting if self._may_run(owner)]
            if not ready:
                return
            owner = ready[0]
            woken = self._waiting[owner].popleft()
            self._running[owner] += 1
            woken.set_result(None)
            rest = self._waiting.pop(owner)
            if rest:
                self._waiting[owner] = rest  # behind all others

    def _may_run(self, owner: str | None) -> bool:
        most = self._num_slots if owner is None else max(1, self._num_slots - 1)
        return self._running[owner] < most

    def _forget_cancelled(self) -> None:
        """Remove waiting tasks that were cancelled but have not noticed yet, as they cannot be woken any more."""
        for owner, waiting in list(self._waiting.items()):
            if left := deque(each for each in waiting if not each.done()):
                self._waiting[owner] = left
            else:
                del self._waiting[owner]


def _too_many_waiting() -> ProblemError:
    problem = Problem(
        type="/problems/too-much-heavy-work",
        title="Too many expensive requests",
        status=429,
        detail="Figures, smoothings, large requests and samples are computed a few at a time. Wait for the "
        "responses to your earlier requests.",
    )
    return ProblemError(problem, {"Retry-After": "5"})
