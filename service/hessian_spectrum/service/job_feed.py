"""Who waits for news of a job hears of it here: one reader of Redis for all listeners and long polls of a service."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator

import anyio
from redis.exceptions import RedisError

from hessian_spectrum.jobs.events import BEFORE_ALL, EventLog, JobEvent
from hessian_spectrum.jobs.record import JobRecord

_SECONDS_BETWEEN_READS = 0.01
"""So that many changes at once are one read."""

_SECONDS_BETWEEN_TRIES = 0.5
_LOOK_AFTER_SECONDS = 5
"""Of silence: a job that was deleted says nothing."""

_logger = logging.getLogger(__name__)


class JobFeed:
    """Wakes those who wait when their job changes."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._bells: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._looks: dict[tuple[str, str], asyncio.Task[list[JobEvent]]] = {}

    async def run(self) -> None:
        """Read what changes until cancelled; while Redis is away those who wait are woken to find it out."""
        place: str | None = None
        while True:
            try:
                place = place or await self._events.newest_change()
                place, changed = await self._events.changes(place)
                await asyncio.sleep(_SECONDS_BETWEEN_READS)
            except RedisError as error:
                _logger.debug("no news of jobs: %s", error)
                changed = set(self._bells)
                await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
            for job_id in changed:
                for bell in self._bells.get(job_id, ()):
                    bell.set()

    @contextlib.contextmanager
    def bell(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set, and set again at each change of the job."""
        bell = asyncio.Event()
        bell.set()
        self._bells[job_id].add(bell)
        try:
            yield bell
        finally:
            self._bells[job_id].discard(bell)
            if not self._bells[job_id]:
                del self._bells[job_id]

    async def listener(
        self, record: JobRecord, last_event_id: str | None, may_hear: Callable[[], bool] = lambda: True
    ) -> "Listener | None":
        """One who follows a job from after the event that was heard last or, if that is not known, from now on.

        Args:
            may_hear: Whether they still may.

        Returns:
            None if the job ended and all was heard.

        Raises:
            RedisError: Redis does not answer.
        """
        begun = await self._begun(record, last_event_id)
        return None if begun is None else Listener(self, record.id, *begun, may_hear)

    async def _begun(self, record: JobRecord, last_event_id: str | None) -> tuple[list[JobEvent], str] | None:
        """What a listener hears first, and what it heard before."""
        if last_event_id is not None and await self._events.holds(record.id, last_event_id):
            missed = await self._events.after(record.id, last_event_id)
            return None if record.ended and not missed else (missed, last_event_id)
        newest = await self._events.newest(record.id)
        if newest is None and record.ended and last_event_id == BEFORE_ALL:
            return None
        present = newest or JobEvent(BEFORE_ALL, record)
        return [present], present.id

    async def after(self, job_id: str, event_id: str) -> list[JobEvent]:
        """The events after this one; listeners that ask for the same at the same time share one look.

        Raises:
            RedisError: Redis does not answer.
        """
        key = (job_id, event_id)
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.create_task(self._events.after(job_id, event_id))
            look.add_done_callback(lambda _: self._looks.pop(key))
        return await asyncio.shield(look)

    async def knows(self, job_id: str) -> bool:
        """Whether a job has events.

        Raises:
            RedisError: Redis does not answer.
        """
        return await self._events.newest(job_id) is not None


class Listener:
    """One who follows a job."""

    def __init__(
        self, feed: JobFeed, job_id: str, first: list[JobEvent], last_event_id: str, may_hear: Callable[[], bool]
    ) -> None:
        self._feed = feed
        self._job_id = job_id
        self._first = first
        self._last_event_id = last_event_id
        self._may_hear = may_hear

    async def events(self, stopping: anyio.Event) -> AsyncGenerator[JobEvent, None]:
        """Each change once, the last one when the job ended.

        They end early when Redis is away, the job is gone, or soon after `stopping` is set or its listener may hear no
        more; whoever wants to go on listens anew.
        """
        with self._feed.bell(self._job_id) as bell:
            news = self._first
            while not stopping.is_set() and self._may_hear():
                for event in news:
                    self._last_event_id = event.id
                    yield event
                    if event.record.ended:
                        return
                rung = await _rung(bell, stopping)
                try:
                    news = await self._feed.after(self._job_id, self._last_event_id)
                    if not rung and not await self._feed.knows(self._job_id):
                        return
                except RedisError:
                    return


async def _rung(bell: asyncio.Event, stopping: anyio.Event) -> bool:
    """Wait until it is time to look: the bell was rung, nothing was heard for long, or all is to stop."""
    for _ in range(_LOOK_AFTER_SECONDS):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await bell.wait()
        if bell.is_set() or stopping.is_set():
            break
    rung = bell.is_set()
    bell.clear()
    return rung
