"""The memory that all uploads in progress share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import BODY_TOO_LARGE, ProblemError

RETRY_SECONDS = 5


class Reservation:
    """The bytes of a budget that one upload holds."""

    def __init__(self, budget: "MemoryBudget") -> None:
        self._budget = budget
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Reserve further bytes.

        Raises:
            ProblemError: 413 if the whole budget is too small, 503 if too much of it is reserved by other uploads.
        """
        if self.num_bytes + num_bytes > self._budget.num_bytes:
            raise ProblemError(BODY_TOO_LARGE)
        self._budget.take(num_bytes)
        self.num_bytes += num_bytes


class MemoryBudget:
    """A number of bytes that several threads may reserve parts of.

    Args:
        num_bytes: Size of the budget.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._num_free_bytes = num_bytes
        self._lock = threading.Lock()

    @contextmanager
    def reservation(self) -> Iterator[Reservation]:
        """An empty reservation, which is released at the end of the context."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.take(-reservation.num_bytes)

    def take(self, num_bytes: int) -> None:
        """Take bytes out of the budget; a negative number puts them back.

        Raises:
            ProblemError: 503 if fewer bytes are free.
        """
        with self._lock:
            if num_bytes > self._num_free_bytes:
                raise _busy()
            self._num_free_bytes -= num_bytes


def _busy() -> ProblemError:
    detail = "Other uploads take the memory that the server keeps for them. Send this one again later."
    problem = Problem(type="/problems/uploads-busy", title="Too many uploads at once", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": str(RETRY_SECONDS)})
