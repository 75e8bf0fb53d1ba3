"""The memory that all uploads in progress share."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.config import MAX_SHARE_PER_KEY
from hessian_spectrum.service.problems import BODY_TOO_LARGE, ProblemError

RETRY_SECONDS = 5


class Reservation:
    """The bytes of a budget that one upload holds.

    Args:
        budget: The budget of all uploads.
        owner: Id of the API key that the upload came with; None without one.
    """

    def __init__(self, budget: "MemoryBudget", owner: str | None = None) -> None:
        self._budget = budget
        self.owner = owner
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Reserve further bytes.

        Raises:
            ProblemError: 413 if the whole budget is too small, 503 if too much of it is reserved by other uploads.
        """
        if self.num_bytes + num_bytes > self._budget.num_bytes:
            raise ProblemError(BODY_TOO_LARGE)
        self._budget.take(self, num_bytes)


class MemoryBudget:
    """A number of bytes that several threads may reserve parts of.

    One upload may reserve all of them; several uploads with one API key get at most `MAX_SHARE_PER_KEY`.

    Args:
        num_bytes: Size of the budget.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._num_bytes_of: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def reservation(self, owner: str | None = None) -> Iterator[Reservation]:
        """Open an empty reservation.

        Args:
            owner: Id of the API key that the upload came with; None without one.

        Yields:
            The reservation, which is released at the end of the context.
        """
        reservation = Reservation(self, owner)
        try:
            yield reservation
        finally:
            self.take(reservation, -reservation.num_bytes)

    def take(self, reservation: Reservation, num_bytes: int) -> None:
        """Move bytes from the budget to a reservation; a negative number moves them back.

        Raises:
            ProblemError: 503 if fewer bytes are free, or free for this key.
        """
        owner = reservation.owner
        with self._lock:
            is_only_upload = owner is None or self._num_bytes_of[owner] == reservation.num_bytes
            most = self.num_bytes if is_only_upload else int(MAX_SHARE_PER_KEY * self.num_bytes)
            num_free = min(self.num_bytes - self._num_bytes_of.total(), most - self._num_bytes_of[owner])
            if num_bytes > max(0, num_free):
                raise _busy()
            self._num_bytes_of[owner] += num_bytes
            reservation.num_bytes += num_bytes
            if not self._num_bytes_of[owner]:
                del self._num_bytes_of[owner]


def _busy() -> ProblemError:
    detail = "Other uploads use all of the memory for uploads. Send this one again later."
    problem = Problem(type="/problems/uploads-busy", title="Too many uploads at once", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": str(RETRY_SECONDS)})
