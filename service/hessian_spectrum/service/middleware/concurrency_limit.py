"""Limits on the number of requests in progress at once; requests that only wait have a separate limit."""

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.config import HEALTH_PREFIX, MAX_SHARE_PER_KEY
from hessian_spectrum.service.problems import ProblemError, refusal_response


class ConcurrencyLimit:
    """Answers 503 to a request for which no slot is free, before its body is read.

    A request holds its slot, `request.state.slot`, until its response is sent. Health checks need none.

    Args:
        app: The application behind this middleware.
        slots: The slots of all requests.
    """

    def __init__(self, app: ASGIApp, slots: "RequestSlots") -> None:
        self._app = app
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while it holds a slot."""
        if scope["type"] != "http" or scope["path"].startswith(HEALTH_PREFIX):
            await self._app(scope, receive, send)
            return
        principal: Principal = scope["state"]["principal"]
        try:
            slot = self._slots.acquire(principal.owner)
        except ProblemError as refusal:
            await refusal_response(scope, refusal)(scope, receive, send)
            return
        try:
            scope["state"]["slot"] = slot
            await self._app(scope, receive, send)
        finally:
            slot.release()


class SlotPool:
    """A number of slots, of which the bearers of one API key hold at most `MAX_SHARE_PER_KEY`, rounded up.

    Args:
        num_slots: Number of all slots.

    Attributes:
        num_taken: Number of slots that are taken by all requests together.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._num_slots_per_key = math.ceil(MAX_SHARE_PER_KEY * num_slots)
        self._num_taken_by: dict[str | None, int] = {}
        self.num_taken = 0

    def has_free_slot(self, owner: str | None) -> bool:
        """Tell whether the bearer of a key may take a slot.

        Args:
            owner: Id of the key; requests without a key (None) may take all slots.

        Returns:
            True if a slot is free and the key holds fewer than its share.
        """
        most = self._num_slots if owner is None else self._num_slots_per_key
        return self.num_taken < self._num_slots and self._num_taken_by.get(owner, 0) < most

    def take(self, owner: str | None) -> None:
        """Take a slot; the caller has checked that one is free."""
        self._num_taken_by[owner] = self._num_taken_by.get(owner, 0) + 1
        self.num_taken += 1

    def release(self, owner: str | None) -> None:
        """Release a slot that was taken."""
        self._num_taken_by[owner] -= 1
        self.num_taken -= 1
        if not self._num_taken_by[owner]:
            del self._num_taken_by[owner]


class RequestSlots:
    """The slots of requests that are worked on, and those of requests that wait: long polls and event streams.

    Args:
        max_requests: Requests that are worked on at once.
        max_waiting_requests: Requests that wait at once, besides.
    """

    def __init__(self, *, max_requests: int, max_waiting_requests: int) -> None:
        self.active = SlotPool(max_requests)
        self.waiting = SlotPool(max_waiting_requests)

    def acquire(self, owner: str | None) -> "Slot":
        """Take an active slot for a request, which must release it.

        Args:
            owner: Id of its API key, None without one.

        Returns:
            The slot.

        Raises:
            ProblemError: 503 if no slot is free.
        """
        if not self.active.has_free_slot(owner):
            raise _too_many_requests()
        self.active.take(owner)
        return Slot(self, owner)


class Slot:
    """The slot of one request, `request.state.slot`: at first an active one, after `start_waiting` a waiting one."""

    def __init__(self, slots: RequestSlots, owner: str | None) -> None:
        self._slots, self._owner = slots, owner
        self._pool = slots.active

    def may_wait(self) -> bool:
        """Return whether this request already waits, or a slot for waiting is free."""
        return self._pool is self._slots.waiting or self._slots.waiting.has_free_slot(self._owner)

    def start_waiting(self) -> None:
        """Exchange the slot for one of a waiting request, until the request ends.

        Raises:
            ProblemError: 429 if too many requests wait.
        """
        if self._pool is self._slots.waiting:
            return
        if not self.may_wait():
            raise _too_many_waiting_requests()
        self._pool.release(self._owner)
        self._pool = self._slots.waiting
        self._pool.take(self._owner)

    def release(self) -> None:
        """Release the slot at the end of the request."""
        self._pool.release(self._owner)


def _too_many_requests() -> ProblemError:
    problem = Problem(
        type="/problems/too-many-requests-at-once",
        title="Server busy",
        status=503,
        detail="The server is already handling as many requests as it can.",
    )
    return ProblemError(problem, {"Retry-After": "1"})


def _too_many_waiting_requests() -> ProblemError:
    problem = Problem(
        type="/problems/too-many-listeners",
        alias="/problems/too-many-waiting-requests",
        title="Too many waiting requests",
        status=429,
        detail="Read the job without `wait`, or try again later.",
    )
    return ProblemError(problem, {"Retry-After": "5"})
