"""How many requests are answered at once, those that wait for something to happen apart from the others."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

SHARE_OF_A_KEY = 0.75
"""Of all places: whoever takes more leaves none to others."""


class Room:
    """So many places, of which the bearers of one key get a share."""

    def __init__(self, num_places: int) -> None:
        self._num_places = num_places
        self._num_places_of_a_key = math.ceil(SHARE_OF_A_KEY * num_places)
        self._taken: Counter[str | None] = Counter()

    @property
    def num_taken(self) -> int:
        """By everybody."""
        return self._taken.total()

    def has_place(self, owner: str | None) -> bool:
        """Whether there is one for the bearer of a key; None: for a caller without."""
        most = self._num_places if owner is None else self._num_places_of_a_key
        return self.num_taken < self._num_places and self._taken[owner] < most

    def take(self, owner: str | None) -> None:
        """One place."""
        self._taken[owner] += 1

    def give_back(self, owner: str | None) -> None:
        """One that was taken."""
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]


class Crowd:
    """Room for so many requests, and besides for listeners: long polls and event streams, which only wait."""

    def __init__(self, max_requests: int, max_listeners: int) -> None:
        self.requests = Room(max_requests)
        self.listeners = Room(max_listeners)

    @contextmanager
    def place(self, owner: str | None) -> Iterator["Place"]:
        """A place for one request until its answer is sent.

        Args:
            owner: Id of its key.

        Raises:
            ProblemError: 503 if there is none.
        """
        if not self.requests.has_place(owner):
            raise _too_many_requests()
        self.requests.take(owner)
        place = Place(self, owner)
        try:
            yield place
        finally:
            place.room.give_back(owner)


class Place:
    """What one request holds, `request.state.place`."""

    def __init__(self, crowd: Crowd, owner: str | None) -> None:
        self._crowd, self._owner = crowd, owner
        self.room = crowd.requests

    def may_listen(self) -> bool:
        """Whether there is room for this request to wait."""
        return self.room is self._crowd.listeners or self._crowd.listeners.has_place(self._owner)

    def listen(self) -> None:
        """From now on, to its end, this request only waits.

        Raises:
            ProblemError: 429 if too many do.
        """
        if self.room is self._crowd.listeners:
            return
        if not self.may_listen():
            raise _too_many_listeners()
        self.room.give_back(self._owner)
        self.room = self._crowd.listeners
        self.room.take(self._owner)


def _too_many_requests() -> ProblemError:
    problem = Problem(
        type="/problems/too-many-requests-at-once",
        title="Busy",
        status=503,
        detail="The server answers as many requests as it can at once.",
    )
    return ProblemError(problem, {"Retry-After": "1"})


def _too_many_listeners() -> ProblemError:
    problem = Problem(
        type="/problems/too-many-listeners",
        title="Too many wait for jobs",
        status=429,
        detail="Ask how the job stands without `wait`, or try again.",
    )
    return ProblemError(problem, {"Retry-After": "5"})
