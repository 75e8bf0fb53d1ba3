"""Repetition of requests while a server that is being followed does not answer."""

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
"""Status codes of errors that may be temporary."""

_logger = logging.getLogger(__name__)


class OutageRetry:
    """Decides whether to try again after an error, and logs once per outage for how long it will.

    Args:
        job_id: Job that is followed, for messages.
        seconds: Longest outage before giving up.
        is_known: Whether the server has answered before; otherwise the first error is final.
        deadline: Time of `time.monotonic` at which to give up in any case.
    """

    def __init__(self, job_id: str, seconds: float, *, is_known: bool, deadline: float = float("inf")) -> None:
        self._job_id = job_id
        self._seconds = seconds
        self._is_known = is_known
        self._deadline = deadline
        self._began_at: float | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """Record an answer of the server, which ends the outage."""
        self._is_known = True
        self._began_at = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def pause_seconds(self, error: SpectrumClientError) -> float:
        """Seconds to wait before the next try.

        Args:
            error: Error of the last try.

        Returns:
            The pause in seconds, which grows during an outage.

        Raises:
            SpectrumClientError: The error itself, if another try is pointless.
            JobOutOfSightError: If the outage has lasted too long.
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
