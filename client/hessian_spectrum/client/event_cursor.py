"""Position of a client in the stream of a job's events."""

from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, Job

SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_OF_SILENCE = 45.0
"""Longest time without data, three heartbeats of the server."""


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
