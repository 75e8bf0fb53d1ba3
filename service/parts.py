"""Everything that lives as long as a service does, beside the application that answers requests."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.concurrency import run_in_threadpool

from jobs.artifact_owners import ArtifactOwners
from jobs.artifacts import ArtifactStore
from jobs.connection import connect, connect_async
from jobs.events import EventLog
from jobs.job_checkpoints import CheckpointStore
from jobs.queue import JobQueue
from jobs.results import ResultStore
from jobs.retention import Retention
from jobs.settings import ServiceSettings
from jobs.storage_identity import StorageIdentity
from jobs.store import JobStore
from service.doors.crowd import Crowd
from service.doors.door import Rules
from service.doors.hosts import Hosts
from service.doors.key_file import KeyFile
from service.doors.rates import RequestRates
from service.job_feed import JobFeed
from service.observation.job_metrics import JobMetrics
from service.observation.request_lines import RequestLines
from service.upkeep.housekeeper import Housekeeper
from service.upkeep.reaper import Reaper

_SECONDS_BETWEEN_CANCELS = 0.1

_logger = logging.getLogger(__name__)


class Parts:
    """Made before the first request; nothing is connected yet."""

    def __init__(self, settings: ServiceSettings) -> None:
        redis_url = settings.redis_url.get_secret_value()
        self.settings = settings
        self.client = connect(redis_url)
        self.store = JobStore(self.client, settings.lease_seconds, settings.max_attempts)
        self.queue = JobQueue(redis_url)
        self._news = connect_async(redis_url)
        self.feed = JobFeed(EventLog(self._news))
        self.artifacts = ArtifactStore(settings.artifacts_dir)
        self.artifact_owners = ArtifactOwners(settings.artifact_owners_dir)
        self.results = ResultStore(settings.results_dir)
        self.rules = _rules(settings)
        self.lines = RequestLines(as_json=settings.as_json)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(JobMetrics(self.client, self.rules.crowd, settings.results_dir))
        checkpoints = CheckpointStore(settings.checkpoints_dir)
        self.storage = StorageIdentity(self.client, self.results, checkpoints)
        sweep = self._housekeeper().sweep
        seconds = (settings.republish_seconds, settings.lease_seconds)
        self._reaper = Reaper(self.store, self.queue, checkpoints, self.storage, *seconds, sweep)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What goes on beside requests goes on inside; at the end everything is given back."""
        with contextlib.suppress(OSError):
            await run_in_threadpool(self.artifacts.remove_abandoned_drafts)
        async with going_on(self._reaper.run(self.settings.reap_seconds), self.feed.run()):
            yield
        self.lines.write()
        self.queue.close()
        self.client.close()
        await self._news.aclose()

    def _housekeeper(self) -> Housekeeper:
        settings = self.settings
        stores = (self.store, Retention(self.client), self.results, self.artifacts, self.artifact_owners, self.storage)
        return Housekeeper(*stores, settings.result_seconds, settings.record_seconds, settings.results_bytes)


@contextlib.asynccontextmanager
async def going_on(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Beside what happens inside; ended with it."""
    tasks = {asyncio.create_task(part) for part in work}
    for task in tasks:
        task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        # Once is not enough: redis-py loses a cancellation that comes while it connects.
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=_SECONDS_BETWEEN_CANCELS)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("%s ended", task.get_coro(), exc_info=error)


def _rules(settings: ServiceSettings) -> Rules:
    return Rules(
        keys=KeyFile(settings.keys_path),
        hosts=Hosts(settings.host_names),
        rates=RequestRates(),
        crowd=Crowd(settings.max_requests, settings.max_listeners),
        requests_per_minute=settings.requests_per_minute,
    )
