"""How much memory the uploads that are being answered may take together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import BODY_TOO_LARGE, ProblemError

RETRY_SECONDS = 5


class Lease:
    """The part of the budget that one upload holds."""

    def __init__(self, memory: "UploadMemory") -> None:
        self._memory = memory
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Raises:  ProblemError 413 if there could never be so much, 503 if there is not now."""
        if self.num_bytes + num_bytes > self._memory.num_bytes:
            raise ProblemError(BODY_TOO_LARGE)
        self._memory.move(num_bytes)
        self.num_bytes += num_bytes


class UploadMemory:
    """A budget of bytes; safe to use from several threads."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._free = num_bytes
        self._lock = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """What one upload takes, all given back at the end."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.move(-lease.num_bytes)

    def move(self, num_bytes: int) -> None:
        """Take from what is free, or give back.

        Raises:
            ProblemError: 503 if so much is not free.
        """
        with self._lock:
            if num_bytes > self._free:
                raise _busy()
            self._free -= num_bytes


def _busy() -> ProblemError:
    detail = "Other uploads take the memory that the server keeps for them. Send this one again later."
    problem = Problem(type="/problems/uploads-busy", title="Too many uploads at once", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": str(RETRY_SECONDS)})
