"""Events of jobs, which the scripts of `lua/` append to Redis streams."""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, cast

import redis.asyncio

from hessian_spectrum.jobs.connection import SOCKET_TIMEOUT_SECONDS
from hessian_spectrum.jobs.record import JobRecord, record_from_fields
from hessian_spectrum.jobs.scripts import CHANGES, EVENTS, JOB

BEFORE_ALL = "0-0"
"""Id before every event."""

_ID = re.compile(r"\d{1,19}-\d{1,19}")
# Half of what a call waits for an answer: when nothing changes, Redis must not count as silent.
_BLOCK_MILLISECONDS = round(500 * SOCKET_TIMEOUT_SECONDS)


@dataclass(frozen=True)
class JobEvent:
    """A job as it was after a change.

    Attributes:
        id: Id of the event in the job's stream.
        record: The job.
        texts: The event as it is sent to clients, by the base URL that they use; made once for all subscribers.
    """

    id: str
    record: JobRecord
    texts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)


class EventLog:
    """The events of all jobs.

    Every method raises RedisError if Redis does not answer.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def newest(self, job_id: str) -> JobEvent | None:
        """Return the last event of a job; None if its events have expired."""
        events = await self._events(job_id, await self._client.xrevrange(EVENTS + job_id, count=1))
        return events[0] if events else None

    async def holds(self, job_id: str, event_id: str) -> bool:
        """Return whether this event of a job is still stored, and with it all later ones."""
        if not _ID.fullmatch(event_id):
            return False
        return bool(await self._client.xrange(EVENTS + job_id, event_id, event_id))

    async def after(self, job_id: str, event_id: str) -> list[JobEvent]:
        """Return the events of a job after this one, oldest first."""
        return await self._events(job_id, await self._client.xrange(EVENTS + job_id, f"({event_id}"))

    async def _events(self, job_id: str, entries: Any) -> list[JobEvent]:
        """Events from stream entries; tags and summary, which never change, come from the record."""
        if not entries:
            return []
        stored = await cast("Awaitable[list[str | None]]", self._client.hmget(JOB + job_id, ["tags", "summary"]))
        fixed = {"tags": stored[0] or "{}", "summary": stored[1] or ""}
        return [JobEvent(event_id, record_from_fields(job_id, fixed | fields)) for event_id, fields in entries]

    async def newest_change(self) -> str:
        """Position in the stream of changes after which `changes` returns what happens from now on."""
        entries = await self._client.xrevrange(CHANGES, count=1)
        return str(entries[0][0]) if entries else BEFORE_ALL

    async def changes(self, place: str) -> tuple[str, set[str]]:
        """Wait up to a second for jobs that changed after a position.

        Args:
            place: The position.

        Returns:
            The position for the next call, and the ids of the jobs.
        """
        answer = await self._client.xread({CHANGES: place}, block=_BLOCK_MILLISECONDS)
        entries = cast("list[tuple[str, dict[str, str]]]", _of_one_stream(answer))
        return (entries[-1][0] if entries else place), {fields["job"] for _, fields in entries}


def _of_one_stream(answer: Any) -> list[Any]:
    # A list of pairs in one version of the protocol, a mapping in the other.
    streams = list(answer.values()) if isinstance(answer, dict) else [entries for _, entries in answer or []]
    return list(streams[0]) if streams else []
