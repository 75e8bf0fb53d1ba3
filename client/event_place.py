"""Where a caller is among the events of a job."""

import time
from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from api_schemas.jobs import ENDED_STATES, Job
from client.errors import ProblemResponseError

SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_TO_TRY = 60.0
_SECONDS_OF_SILENCE = 45.0
"""Three heartbeats of the server."""

_PASSING = {429, 502, 503, 504}
"""Status codes of what may be over soon."""


class EventPlace:
    """What was heard of a job, so that a stream that broke off is taken up where it ended."""

    def __init__(self, job_id: str) -> None:
        self._path = f"/v1/jobs/{job_id}/events"
        self._last_event_id: str | None = None
        self._heard_at = time.monotonic()
        self.ended = False

    def arguments(self) -> dict[str, Any]:
        """What httpx's `stream` takes."""
        headers = {} if self._last_event_id is None else {"Last-Event-ID": self._last_event_id}
        timeout = httpx.Timeout(30.0, read=_SECONDS_OF_SILENCE)
        return {"method": "GET", "url": self._path, "headers": headers, "timeout": timeout}

    def heard(self, event: ServerSentEvent) -> Job:
        """The job that an event tells of."""
        job = Job.model_validate_json(event.data)
        self._last_event_id, self._heard_at = event.id, time.monotonic()
        self.ended = job.state in ENDED_STATES
        return job

    def may_go_on(self, error: Exception) -> bool:
        """Whether another try makes sense after this one: not if the first already failed, or all did for a minute."""
        passing = not isinstance(error, ProblemResponseError) or error.problem.status in _PASSING
        return passing and self._last_event_id is not None and time.monotonic() - self._heard_at < _SECONDS_TO_TRY
