"""Round-robin scheduling of a few slots among API keys, so that no key ever holds all of them."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.middleware.concurrency_limit import SlotPool
from hessian_spectrum.service.problems import ProblemError

Waiting = deque[asyncio.Future[None]]


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
        """By key; the key whose turn is next comes first."""

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
        title="Too much heavy work at once",
        status=429,
        detail="Pictures, other smoothings, large requests and samples are made a few at a time: wait for the answers "
        "to those that were asked for before.",
    )
    return ProblemError(problem, {"Retry-After": "5"})
