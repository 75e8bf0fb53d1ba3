"""Distributes the changes of jobs: one reader of Redis serves all event streams and long polls of a service."""

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
"""Seconds between two reads of changes, so that many changes are read at once."""

_RETRY_SECONDS = 0.5
_POLL_SECONDS = 5
"""Seconds without a notification after which a reader checks its job, as a deleted job sends none."""

_logger = logging.getLogger(__name__)


class JobEventBroker:
    """Notifies subscribers when their job changes.

    Args:
        events: The events of all jobs.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._subscribers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._watchers: set[ChangedJobs] = set()
        self._has_subscribers = asyncio.Event()
        self._is_reading = asyncio.Event()
        self._reads: dict[tuple[str, str], asyncio.Task[list[JobEvent]]] = {}

    async def run(self) -> None:
        """Read changes while there are subscribers, until cancelled.

        All subscribers are notified if Redis is unavailable, so that they notice.
        """
        cursor: str | None = None
        while True:
            if not self._has_subscribers.is_set():
                cursor = None
                self._is_reading.clear()
                await self._has_subscribers.wait()
            try:
                if cursor is None:
                    cursor = await self._events.newest_change()
                    changed = set(self._subscribers)  # their jobs may have changed before this position was read
                    self._is_reading.set()
                else:
                    cursor, changed = await self._events.changes(cursor)
                    await asyncio.sleep(_SECONDS_BETWEEN_READS)
            except RedisError as error:
                _logger.debug("changes of jobs cannot be read: %s", error)
                changed = set(self._subscribers)
                await asyncio.sleep(_RETRY_SECONDS)
            for job_id in changed:
                for notification in self._subscribers.get(job_id, ()):
                    notification.set()
            for watcher in self._watchers:
                watcher.add(changed)

    @contextlib.contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set at first and again at each change of the job, until the block ends."""
        notification = asyncio.Event()
        notification.set()
        self._subscribers[job_id].add(notification)
        self._has_subscribers.set()
        try:
            yield notification
        finally:
            self._subscribers[job_id].discard(notification)
            if not self._subscribers[job_id]:
                del self._subscribers[job_id]
            self._stop_reading_if_alone()

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncGenerator["ChangedJobs", None]:
        """Yield the ids of all jobs that change from the beginning of the block to its end."""
        watcher = ChangedJobs()
        self._watchers.add(watcher)
        self._has_subscribers.set()
        try:
            await self._is_reading.wait()
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._stop_reading_if_alone()

    def _stop_reading_if_alone(self) -> None:
        if not self._subscribers and not self._watchers:
            self._has_subscribers.clear()

    async def newest(self, job_id: str) -> JobEvent | None:
        """Read the last event of a job.

        Args:
            job_id: The id of the job.

        Returns:
            The event; None if the job is deleted.

        Raises:
            RedisError: Redis does not answer.
        """
        return await self._events.newest(job_id)

    async def reader(
        self, record: JobRecord, last_event_id: str | None, is_authorized: Callable[[], bool] = lambda: True
    ) -> "JobEventReader | None":
        """Return a reader of a job's events after the last one that was received or, if that is unknown, from now on.

        Args:
            record: The job.
            last_event_id: The event that the caller received last.
            is_authorized: Whether the caller may still read the job.

        Returns:
            The reader; None if the job has ended and the caller has received everything.

        Raises:
            RedisError: Redis does not answer.
        """
        start = await self._start(record, last_event_id)
        if start is None:
            return None
        first, event_before = start
        return JobEventReader(
            self, job_id=record.id, first=first, last_event_id=event_before, is_authorized=is_authorized
        )

    async def _start(self, record: JobRecord, last_event_id: str | None) -> tuple[list[JobEvent], str] | None:
        """Return the events that a reader gets first, and the id of the one before them."""
        if last_event_id is not None and await self._events.holds(record.id, last_event_id):
            missed = await self._events.after(record.id, last_event_id)
            return None if record.ended and not missed else (missed, last_event_id)
        newest = await self._events.newest(record.id)
        if newest is None and record.ended and last_event_id == BEFORE_ALL:
            return None
        present = newest or JobEvent(BEFORE_ALL, record)
        return [present], present.id

    async def after(self, job_id: str, event_id: str) -> list[JobEvent]:
        """Read the events of a job after a known one; equal reads at the same time share one read of Redis.

        Args:
            job_id: The id of the job.
            event_id: The id of the known event.

        Returns:
            The later events, oldest first.

        Raises:
            RedisError: Redis does not answer.
        """
        key = (job_id, event_id)
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = asyncio.create_task(self._events.after(job_id, event_id))
            read.add_done_callback(lambda _: self._reads.pop(key))
        return await asyncio.shield(read)

    async def exists(self, job_id: str) -> bool:
        """Tell whether a job has events.

        Returns:
            False once the job is deleted.

        Raises:
            RedisError: Redis does not answer.
        """
        return await self._events.newest(job_id) is not None


class ChangedJobs:
    """Ids of the jobs that have changed since they were last taken."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self.notification = asyncio.Event()

    def add(self, job_ids: set[str]) -> None:
        """Add ids, and notify whoever waits for them."""
        if job_ids:
            self._ids |= job_ids
            self.notification.set()

    def take(self) -> set[str]:
        """Return the ids, and forget them."""
        ids, self._ids = self._ids, set()
        return ids


class JobListReader:
    """Reads the changes of all jobs that a caller lists.

    Args:
        broker: Source of the changes.
        is_listed: Whether the caller lists a job.
        is_authorized: Whether the caller may still read jobs.
    """

    is_resumable = False
    """Whether a later reader can go on after an event that was received."""

    def __init__(
        self, broker: JobEventBroker, *, is_listed: Callable[[JobRecord], bool], is_authorized: Callable[[], bool]
    ) -> None:
        self._broker = broker
        self._is_listed = is_listed
        self._is_authorized = is_authorized

    async def events(self, stopping: anyio.Event) -> AsyncGenerator[JobEvent | None, None]:
        """Yield the newest state of each job that changes; several changes in short succession may be one.

        The events end if Redis is unavailable, or soon after `stopping` is set or the caller is no longer authorized.

        Args:
            stopping: Is set when the service stops.

        Yields:
            None as soon as no change is missed any more, then the events.
        """
        async with self._broker.watch() as changed:
            yield None
            while not stopping.is_set() and self._is_authorized():
                await _notified(changed.notification, stopping)
                for job_id in changed.take():
                    try:
                        event = await self._broker.newest(job_id)
                    except RedisError:
                        return
                    if event is not None and self._is_listed(event.record):
                        yield event


class JobEventReader:
    """Reads the events of one job for one caller."""

    is_resumable = True
    """Whether a later reader can go on after an event that was received."""

    def __init__(
        self,
        broker: JobEventBroker,
        *,
        job_id: str,
        first: list[JobEvent],
        last_event_id: str,
        is_authorized: Callable[[], bool],
    ) -> None:
        self._broker = broker
        self._job_id = job_id
        self._first = first
        self._last_event_id = last_event_id
        self._is_authorized = is_authorized

    async def events(self, stopping: anyio.Event) -> AsyncGenerator[JobEvent, None]:
        """Yield each change once; the last event is the end of the job.

        The events end early if Redis is unavailable, if the job is deleted, or soon after `stopping` is set or the
        caller is no longer authorized. The caller may then open another reader.

        Args:
            stopping: Is set when the service stops.

        Yields:
            The events, oldest first.
        """
        with self._broker.subscribe(self._job_id) as notification:
            unread = self._first
            while not stopping.is_set() and self._is_authorized():
                for event in unread:
                    self._last_event_id = event.id
                    yield event
                    if event.record.ended:
                        return
                is_notified = await _notified(notification, stopping)
                try:
                    unread = await self._broker.after(self._job_id, self._last_event_id)
                    if not is_notified and not await self._broker.exists(self._job_id):
                        return
                except RedisError:
                    return


async def _notified(notification: asyncio.Event, stopping: anyio.Event) -> bool:
    """Wait for a notification, a timeout or the end; return whether there was a notification, which is cleared."""
    for _ in range(_POLL_SECONDS):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await notification.wait()
        if notification.is_set() or stopping.is_set():
            break
    is_notified = notification.is_set()
    notification.clear()
    return is_notified
