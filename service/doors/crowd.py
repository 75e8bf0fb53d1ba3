"""How many requests are answered at once, those that wait for something to happen apart from the others."""

from collections.abc import Iterator
from contextlib import contextmanager

from api_schemas.problem import Problem
from service.problems import ProblemError


class Crowd:
    """Room for so many requests, and besides for listeners: long polls and event streams, which only wait."""

    def __init__(self, max_requests: int, max_listeners: int) -> None:
        self._max_requests = max_requests
        self._max_listeners = max_listeners
        self.num_requests = 0
        self.num_listeners = 0

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A place for one request until its answer is sent.

        Raises:  ProblemError 503 if there is none.
        """
        if self.num_requests >= self._max_requests:
            raise _too_many_requests()
        self.num_requests += 1
        place = Place(self)
        try:
            yield place
        finally:
            if place.is_listener:
                self.num_listeners -= 1
            else:
                self.num_requests -= 1

    def has_room_for_a_listener(self) -> bool:
        """Whether another may wait."""
        return self.num_listeners < self._max_listeners


class Place:
    """What one request holds, `request.state.place`."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self.is_listener = False

    def may_listen(self) -> bool:
        """Whether there is room for this request to wait."""
        return self.is_listener or self._crowd.has_room_for_a_listener()

    def listen(self) -> None:
        """From now on, to its end, this request only waits.

        Raises:  ProblemError 429 if too many do.
        """
        if self.is_listener:
            return
        if not self.may_listen():
            raise _too_many_listeners()
        self.is_listener = True
        self._crowd.num_requests -= 1
        self._crowd.num_listeners += 1


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
