"""The broker of job events: it reads Redis only for subscribers, and they miss no change."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from unittest.mock import create_autospec

from redis.exceptions import ConnectionError as RedisAwayError

from hessian_spectrum.jobs.events import EventLog
from hessian_spectrum.service.job_events import JobEventBroker

JOB = "0" * 32


class ChangesOfOneStream:
    """The changes of jobs, as Redis keeps them."""

    def __init__(self) -> None:
        self.job_ids: list[str] = []
        self.num_reads = 0
        self.is_away = False

    async def newest_change(self) -> str:
        self._read()
        return str(len(self.job_ids))

    async def changes(self, place: str) -> tuple[str, set[str]]:
        self._read()
        await asyncio.sleep(0.01)
        return str(len(self.job_ids)), set(self.job_ids[int(place) :])

    def _read(self) -> None:
        self.num_reads += 1
        if self.is_away:
            raise RedisAwayError


@contextlib.asynccontextmanager
async def running_broker(changes: ChangesOfOneStream) -> AsyncIterator[JobEventBroker]:
    log = create_autospec(EventLog, instance=True)
    log.newest_change, log.changes = changes.newest_change, changes.changes
    broker = JobEventBroker(log)
    task = asyncio.create_task(broker.run())
    await asyncio.sleep(0.05)
    try:
        yield broker
    finally:
        task.cancel()


async def notified(notification: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await notification.wait()
    notification.clear()


async def read_anew(changes: ChangesOfOneStream, num_reads: int = 2) -> None:
    async with asyncio.timeout(30):
        before = changes.num_reads
        while changes.num_reads < before + num_reads:
            await asyncio.sleep(0.001)


def test_redis_is_read_only_while_there_are_subscribers() -> None:
    async def check() -> None:
        changes = ChangesOfOneStream()
        async with running_broker(changes) as broker:
            assert changes.num_reads == 0
            for _ in range(2):
                with broker.subscribe(JOB):
                    await read_anew(changes)
                await asyncio.sleep(0.1)  # the read under way ends
                before = changes.num_reads
                await asyncio.sleep(0.1)
                assert changes.num_reads == before

    asyncio.run(check())


def test_a_change_between_subscription_and_first_read_is_notified() -> None:
    async def check() -> None:
        changes = ChangesOfOneStream()
        async with running_broker(changes) as broker:
            for _ in range(2):
                with broker.subscribe(JOB) as notification:
                    await notified(notification)  # the subscriber reads the present state
                    changes.job_ids.append(JOB)
                    await notified(notification)
                await asyncio.sleep(0.1)

    asyncio.run(check())


def test_subscribers_are_notified_of_changes_of_their_job_alone() -> None:
    async def check() -> None:
        changes = ChangesOfOneStream()
        async with running_broker(changes) as broker:
            with broker.subscribe(JOB) as notification:
                await read_anew(changes)
                notification.clear()
                changes.job_ids.append("1" * 32)
                await read_anew(changes)
                assert not notification.is_set()
                changes.job_ids.append(JOB)
                await notified(notification)

    asyncio.run(check())


def test_subscribers_are_notified_if_redis_is_away() -> None:
    async def check() -> None:
        changes = ChangesOfOneStream()
        async with running_broker(changes) as broker:
            with broker.subscribe(JOB) as notification:
                await read_anew(changes)
                notification.clear()
                changes.is_away = True
                await notified(notification)
                changes.is_away = False
                changes.job_ids.append(JOB)
                await notified(notification)

    asyncio.run(check())
