"""Everything that lives as long as a service does, beside the application that answers requests."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio.to_thread
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.jobs.artifact_owners import ArtifactOwners
from hessian_spectrum.jobs.artifacts import ArtifactStore
from hessian_spectrum.jobs.connection import connect, connect_async
from hessian_spectrum.jobs.events import EventLog
from hessian_spectrum.jobs.job_checkpoints import CheckpointStore
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.request_files import RequestFiles
from hessian_spectrum.jobs.results import ResultStore
from hessian_spectrum.jobs.retention import Retention
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.doors.crowd import Crowd, Room
from hessian_spectrum.service.doors.door import Rules
from hessian_spectrum.service.doors.hosts import Hosts
from hessian_spectrum.service.doors.key_file import KeyFile
from hessian_spectrum.service.doors.rates import RequestRates
from hessian_spectrum.service.job_events import JobEventBroker
from hessian_spectrum.service.observation.job_metrics import JobMetrics
from hessian_spectrum.service.observation.request_lines import RequestLines
from hessian_spectrum.service.process_pool.executor import ProcessExecutor
from hessian_spectrum.service.process_pool.fair_scheduler import FairScheduler
from hessian_spectrum.service.process_pool.pool import ProcessPool
from hessian_spectrum.service.upkeep.housekeeper import Housekeeper
from hessian_spectrum.service.upkeep.reaper import Reaper

_SECONDS_BETWEEN_CANCELS = 0.1
_OTHER_THREADS = 32
"""For the upkeep, and for looks of those who wait."""

_logger = logging.getLogger(__name__)


class Parts:
    """Made before the first request; nothing is connected yet."""

    def __init__(self, settings: ServiceSettings) -> None:
        redis_url = settings.redis_url.get_secret_value()
        self.settings = settings
        self.client = connect(redis_url)
        self.requests = RequestFiles(settings.requests_dir)
        self.store = JobStore(self.client, settings.lease_seconds, settings.max_attempts, self.requests)
        self.queue = JobQueue(redis_url)
        self._news = connect_async(redis_url)
        self.feed = JobEventBroker(EventLog(self._news))
        self.artifacts = ArtifactStore(settings.artifacts_dir)
        self.artifact_owners = ArtifactOwners(settings.artifact_owners_dir)
        self.results = ResultStore(settings.results_dir)
        self.rules = _rules(settings)
        self._processes = ProcessPool(settings.heavy_seconds)
        # Those who wait for their turn leave half of the places to requests that are answered at once.
        room = Room(max(2, settings.max_requests // 2))
        self.heavy = ProcessExecutor(FairScheduler(settings.heavy_requests, room), self._processes)
        self.lines = RequestLines(as_json=settings.as_json)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(JobMetrics(self.client, self.rules.crowd, settings.results_dir))
        checkpoints = CheckpointStore(settings.checkpoints_dir)
        self.storage = StorageIdentity(self.client, self.results, checkpoints)
        sweep = self._housekeeper().sweep
        seconds = (settings.republish_seconds, settings.lease_seconds)
        self._reaper = Reaper(self.store, self.queue, checkpoints, self.requests, self.storage, *seconds, sweep)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What goes on beside requests goes on inside; at the end everything is given back."""
        # No request waits for the thread of another: the bearers of one key have not all places.
        anyio.to_thread.current_default_thread_limiter().total_tokens = self.settings.max_requests + _OTHER_THREADS
        with contextlib.suppress(OSError):
            await run_in_threadpool(self.artifacts.remove_abandoned_drafts)
        async with going_on(self._reaper.run(self.settings.reap_seconds), self.feed.run()):
            yield
        self.lines.write()
        await self._processes.close()
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
