"""Whose turn it is where there are few places: keys take turns, and none ever has all."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.middleware.concurrency_limit import SlotPool
from hessian_spectrum.service.problems import ProblemError

Waiting = deque[asyncio.Future[None]]


class Turns:
    """So many pieces of work at once, all but one of which may be of one key; others wait while there is room.

    Args:  num_places; room for those who wait or work.
    """

    def __init__(self, num_places: int, room: SlotPool) -> None:
        self._num_places = num_places
        self._room = room
        self._working: Counter[str | None] = Counter()
        self._waiting: dict[str | None, Waiting] = {}
        """By key, the one whose turn is next first."""

    @asynccontextmanager
    async def turn(self, owner: str | None) -> AsyncIterator[None]:
        """A place, once it is this key's turn; None: of those who have no key, who may take all.

        Raises:
            ProblemError: 429 if too many wait.
        """
        if not self._room.has_free_slot(owner):
            raise _too_many()
        self._room.take(owner)
        try:
            await self._begin(owner)
            try:
                yield
            finally:
                self._working[owner] -= 1
                self._call()
        finally:
            self._room.release(owner)

    async def _begin(self, owner: str | None) -> None:
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(called)
        self._call()
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._forget_those_who_left()
            else:  # called in the same moment: the place goes to the next one
                self._working[owner] -= 1
                self._call()
            raise

    def _call(self) -> None:
        """Give free places to those whose turn it is."""
        while self._working.total() < self._num_places:
            self._forget_those_who_left()
            ready = [owner for owner in self._waiting if self._may_work(owner)]
            if not ready:
                return
            owner = ready[0]
            called = self._waiting[owner].popleft()
            self._working[owner] += 1
            called.set_result(None)
            rest = self._waiting.pop(owner)
            if rest:
                self._waiting[owner] = rest  # behind all others

    def _may_work(self, owner: str | None) -> bool:
        most = self._num_places if owner is None else max(1, self._num_places - 1)
        return self._working[owner] < most

    def _forget_those_who_left(self) -> None:
        """Who was cancelled just now, and has not heard of it yet, cannot be called any more."""
        for owner, waiting in list(self._waiting.items()):
            if left := deque(each for each in waiting if not each.done()):
                self._waiting[owner] = left
            else:
                del self._waiting[owner]


def _too_many() -> ProblemError:
    problem = Problem(
        type="/problems/too-much-heavy-work",
        title="Too much heavy work at once",
        status=429,
        detail="Pictures, other smoothings, large requests and samples are made a few at a time: wait for the answers "
        "to those that were asked for before.",
    )
    return ProblemError(problem, {"Retry-After": "5"})
