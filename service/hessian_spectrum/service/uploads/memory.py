"""How much memory the uploads that are being answered may take together."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.doors.crowd import SHARE_OF_A_KEY
from hessian_spectrum.service.problems import BODY_TOO_LARGE, ProblemError

RETRY_SECONDS = 5


class Lease:
    """The part of the budget that one upload holds.

    Args:
        owner: Of the key that it came with; None: of a caller without.
    """

    def __init__(self, memory: "UploadMemory", owner: str | None = None) -> None:
        self._memory = memory
        self.owner = owner
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Raises:  ProblemError 413 if there could never be so much, 503 if there is not now."""
        if self.num_bytes + num_bytes > self._memory.num_bytes:
            raise ProblemError(BODY_TOO_LARGE)
        self._memory.move(self, num_bytes)


class UploadMemory:
    """A budget of bytes; safe to use from several threads.

    One upload may take all of it, several of one key only a share.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._taken: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, owner: str | None = None) -> Iterator[Lease]:
        """What one upload of this key takes, all given back at the end."""
        lease = Lease(self, owner)
        try:
            yield lease
        finally:
            self.move(lease, -lease.num_bytes)

    def move(self, lease: Lease, num_bytes: int) -> None:
        """Take from what is free, or give back.

        Raises:
            ProblemError: 503 if so much is not free for this key.
        """
        with self._lock:
            of_key = self._taken[lease.owner]
            is_alone = lease.owner is None or of_key == lease.num_bytes
            most = self.num_bytes if is_alone else int(SHARE_OF_A_KEY * self.num_bytes)
            if num_bytes > max(0, min(self.num_bytes - self._taken.total(), most - of_key)):
                raise _busy()
            self._taken[lease.owner] += num_bytes
            lease.num_bytes += num_bytes
            if not self._taken[lease.owner]:
                del self._taken[lease.owner]


def _busy() -> ProblemError:
    detail = "Other uploads take the memory that the server keeps for them. Send this one again later."
    problem = Problem(type="/problems/uploads-busy", title="Too many uploads at once", status=503, detail=detail)
    return ProblemError(problem, {"Retry-After": str(RETRY_SECONDS)})
