"""Where routes bring heavy work: it waits for its turn, ends when its caller goes, and is counted for what it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from hessian_spectrum.service.heavy.messages import Reply
from hessian_spectrum.service.heavy.processes import Processes
from hessian_spectrum.service.heavy.turns import Turns

REQUESTS_PER_SECOND = 10.0
"""As so many requests a second of heavy work counts in the rate of its caller."""

COMMON = "common"
"""Whose turn it is at work that bearers of several keys wait for: none of them stands in the line of another."""

P = ParamSpec("P")
T = TypeVar("T")


class HeavyDesk:
    """Work in turn, in a process that can be ended, or in a thread that cannot."""

    def __init__(self, turns: Turns, processes: Processes) -> None:
        self._turns = turns
        self._processes = processes

    async def do(self, request: Request, task: str, arguments: Mapping[str, Any], content: bytes = b"") -> Reply:
        """What a task of `service/heavy/tasks.py` answers; its process is killed when the caller goes.

        Raises:
            ProblemError: : that of the task, 429 if too many wait, 503.
            ClientDisconnect: The caller has gone.
        """
        return await self._worked(request, lambda: self._processes.do(task, arguments, content))

    async def finish(self, request: Request, task: str, arguments: Mapping[str, Any]) -> Reply:
        """The same of work that others wait for, too: it goes on when the caller goes.

        Raises:
            ProblemError: The answer is a problem.
        """
        return await self._in_turn(request, COMMON, lambda: self._processes.do(task, arguments))

    async def in_thread(self, request: Request, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """The same of a function whose arguments are too large to be handed on; once begun it runs to its end.

        Raises:  what the function raises; ProblemError 429 if too many wait; ClientDisconnect.
        """
        return await self._worked(request, lambda: anyio.to_thread.run_sync(lambda: function(*arguments, **options)))

    async def _worked(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        return await while_connected(request.receive, self._in_turn(request, request.state.principal.owner, work))

    async def _in_turn(self, request: Request, owner: str | None, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turns.turn(owner):
            began = time.monotonic()
            try:
                return await work()
            finally:
                request.state.charge(REQUESTS_PER_SECOND * (time.monotonic() - began))


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """What comes of the work, which is cancelled when the caller goes; the body must have been read.

    Raises:  what the work raises; ClientDisconnect.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
