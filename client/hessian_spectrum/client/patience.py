"""How long a caller who follows a job goes on while the server does not answer."""

import logging
import time

from hessian_spectrum.client.errors import (
    JobOutOfSightError,
    ProblemResponseError,
    ServerUnreachableError,
    SpectrumClientError,
)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_GROWTH = 1.3

_PASSING = {429, 502, 503, 504}
"""Status codes of what may be over soon."""

_logger = logging.getLogger(__name__)


class Patience:
    """Decides whether to try again after an error, and says once in an outage for how long it will.

    Args:
        job_id: The job that is followed, for messages.
        seconds: The caller gives up when an outage has lasted so long.
        is_known: Whether the server has answered before; if not, the first error is the last.
        deadline: The caller gives up then in any case, by `time.monotonic`.
    """

    def __init__(self, job_id: str, seconds: float, *, is_known: bool, deadline: float = float("inf")) -> None:
        self._job_id = job_id
        self._seconds = seconds
        self._is_known = is_known
        self._deadline = deadline
        self._began_at: float | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def heard(self) -> None:
        """The server has answered: there is no outage."""
        self._is_known = True
        self._began_at = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def pause_seconds(self, error: SpectrumClientError) -> float:
        """After how long to try again.

        Raises:
            SpectrumClientError: The error, where another try makes no sense, or what it means that the time is over.
        """
        if not (self._is_known and _is_passing(error)):
            raise error
        now = time.monotonic()
        is_new = self._began_at is None
        began_at = self._began_at = now if self._began_at is None else self._began_at
        ends_at = min(began_at + self._seconds, self._deadline)
        if now >= ends_at:
            raise JobOutOfSightError(self._job_id, now - began_at, error) from error
        if is_new:
            _logger.warning("%s; trying again for up to %.0f s, while the job goes on", error, ends_at - now)
        self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, _GROWTH * self._pause_seconds)
        return min(self._pause_seconds, ends_at - now)


def _is_passing(error: SpectrumClientError) -> bool:
    if isinstance(error, ProblemResponseError):
        return error.problem.status in _PASSING
    return isinstance(error, ServerUnreachableError)
