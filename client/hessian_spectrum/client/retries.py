"""Repetition of requests while the server is busy, and of those that follow a job during outages.

An ordinary request is not repeated when the server cannot be reached.
"""

import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, AnyJobResult, Job
from hessian_spectrum.client import requests
from hessian_spectrum.client.errors import (
    ProblemResponseError,
    ServerOutageError,
    ServerUnreachableError,
    SpectrumClientError,
)

SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_OF_SILENCE = 45.0
"""Longest time without data, three heartbeats of the server."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_GROWTH = 1.3

_TRANSIENT = {429, 502, 503, 504}
"""Status codes of errors after which a later try may succeed."""

_NOT_BEGUN = ("/problems/too-many-requests-at-once", "/problems/uploads-busy")
"""Problems of requests that the server has not begun to process."""

_logger = logging.getLogger(__name__)


def pause_before_repeat(request: requests.ApiRequest[Any], response: httpx.Response) -> float | None:
    """Seconds after which to send a request again that the server did not begin; None if it must not be sent again."""
    if response.status_code not in (429, 503) or isinstance(request.body, Iterator | AsyncIterator):
        return None
    if response.status_code == 503 and requests.refusal(response).problem.type not in _NOT_BEGUN:
        return None
    return requests.retry_after_seconds(response)


class Backoff:
    """Pauses between tries, which grow during an outage."""

    def __init__(self) -> None:
        self._seconds = _FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """Record an answer of the server, which ends the outage."""
        self._seconds = _FIRST_PAUSE_SECONDS

    def next_seconds(self, error: SpectrumClientError) -> float:
        """Return the pause in seconds after an error, which is not shorter than one that the server asks for."""
        self._seconds = min(_LONGEST_PAUSE_SECONDS, _GROWTH * self._seconds)
        requested = error.retry_after_seconds if isinstance(error, ProblemResponseError) else None
        return max(self._seconds, requested or 0.0)


class OutageRetry:
    """Decides whether to try again after an error, and logs once per outage for how long it will.

    Args:
        job_id: Job that is followed, for messages.
        seconds: Longest outage before giving up.
        is_known: Whether the server has answered before; otherwise the first error is final.
        deadline: Time of `time.monotonic` at which to give up in any case.

    Attributes:
        deadline: The same time.
    """

    def __init__(self, job_id: str, seconds: float, *, is_known: bool, deadline: float = float("inf")) -> None:
        self._job_id = job_id
        self._seconds = seconds
        self._is_known = is_known
        self.deadline = deadline
        self._began_at: float | None = None
        self._backoff = Backoff()

    def reset(self) -> None:
        """Record an answer of the server, which ends the outage."""
        self._is_known = True
        self._began_at = None
        self._backoff.reset()

    def pause_seconds(self, error: SpectrumClientError) -> float:
        """Seconds to wait before the next try.

        Args:
            error: Error of the last try.

        Returns:
            The pause in seconds. It grows during an outage, is not shorter than a pause that the server asks for, and
            ends no later than the deadline.

        Raises:
            SpectrumClientError: The error itself, if another try is pointless.
            ServerOutageError: If the outage has lasted too long.
        """
        if not (is_transient(error) and (self._is_known or _is_busy(error))):
            raise error
        now = time.monotonic()
        is_new = self._began_at is None
        began_at = self._began_at = now if self._began_at is None else self._began_at
        ends_at = min(began_at + self._seconds, self.deadline)
        if now >= ends_at:
            raise ServerOutageError(self._job_id, now - began_at, error) from error
        if is_new:
            _logger.warning("%s; trying again for up to %.0f s, while the job goes on", error, ends_at - now)
        return min(self._backoff.next_seconds(error), ends_at - now)


def _is_busy(error: SpectrumClientError) -> bool:
    return isinstance(error, ProblemResponseError) and error.problem.status == 429


def is_transient(error: SpectrumClientError) -> bool:
    """Return whether a later try may succeed."""
    if isinstance(error, ProblemResponseError):
        return error.problem.status in _TRANSIENT
    return isinstance(error, ServerUnreachableError)


class EventCursor:
    """Position in a job's events, from which an interrupted stream is resumed."""

    def __init__(self, job_id: str) -> None:
        self._path = f"/v1/jobs/{job_id}/events"
        self._last_event_id: str | None = None
        self.ended = False

    def arguments(self) -> dict[str, Any]:
        """Arguments for httpx's `stream`."""
        headers = {} if self._last_event_id is None else {"Last-Event-ID": self._last_event_id}
        timeout = httpx.Timeout(30.0, read=_SECONDS_OF_SILENCE)
        return {"method": "GET", "url": self._path, "headers": headers, "timeout": timeout}

    def read(self, event: ServerSentEvent) -> Job | None:
        """The job in an event; None for a heartbeat, which httpx-sse reports as an event without data."""
        if not event.data:
            return None
        job = Job.model_validate_json(event.data)
        self._last_event_id = event.id
        self.ended = job.state in ENDED_STATES
        return job


class InterimCursor:
    """Remembers which interim results of a job a caller has been given.

    Attributes:
        has_seen_any: Whether any was announced.
    """

    def __init__(self) -> None:
        self._announced: str | None = None
        self._last: AnyJobResult | None = None
        self.has_seen_any = False

    def is_news(self, job: Job) -> bool:
        """Return whether the job has an interim result that was not announced before."""
        is_news = job.interim not in (None, self._announced)
        self._announced = job.interim
        self.has_seen_any |= is_news
        return is_news

    def read(self, result: AnyJobResult) -> AnyJobResult | None:
        """Return the result if it is an interim one that was not read before."""
        if not getattr(result, "interim", False) or result == self._last:
            return None
        self._last = result
        return result
