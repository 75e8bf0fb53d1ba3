"""Recovery of jobs whose worker died or whose message was lost, and removal of what ended jobs left behind."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.jobs.connection import described
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.retention import Leftovers
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.storage.job_files import ABANDONED_SECONDS, CheckpointStore, RequestFiles

_AWAY = (redis.ConnectionError, redis.TimeoutError)
"""Errors that mean that Redis is unreachable; a full Redis still receives the announcements of workers."""

_MAX_SHARE_OF_SCANNING = 0.1
"""Largest share of the running time that listing the files of jobs may take."""

_logger = logging.getLogger(__name__)


class LostJobReaper:
    """Queues lost jobs again. Several services may run one at once: each step is decided in Redis.

    Args:
        store: Records of jobs.
        queue: Messages to workers.
        checkpoints: Checkpoints of jobs.
        requests: Large requests, which are stored as files.
        storage: Identity of the results directory and of Redis.
        republish_seconds: Age of a queued job without a message that is sent again.
        lease_seconds: Time in which a worker must renew its lease.
        run_retention: Called at the end of each run.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        queue: JobQueue,
        checkpoints: CheckpointStore,
        requests: RequestFiles,
        storage: StorageIdentity,
        republish_seconds: float,
        lease_seconds: float,
        run_retention: Callable[[], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._checkpoints = checkpoints
        self._requests = requests
        self._storage = storage
        self._republish_seconds = republish_seconds
        self._lease_seconds = lease_seconds
        self._run_retention = run_retention
        self._away_until = -math.inf
        self._next_scan = -math.inf
        self._logged_mismatch = ""
        """The mismatch that was logged last: it may persist for days and is logged only once."""

    def run_once(self) -> None:
        """Recover the jobs that are lost now.

        While Redis was away no worker could renew its lease; afterwards each has the time of a lease to do so.

        Raises:
            RedisError: Redis does not answer; the next run tries again.
            OperationalError: The queue does not answer; the next run tries again.
            OSError: The disk cannot be read or written; the next run tries again.
            StorageMismatchError: The results directory and Redis do not belong together; the next run tries again.
        """
        try:
            self._recover_jobs()
            self._store.index_existing_jobs()  # after the jobs, as a full Redis has no room for it
            self._remove_leftovers_if_due()
            self._run_retention()
        except _AWAY:
            self._away_until = time.monotonic() + self._lease_seconds
            raise

    def _recover_jobs(self) -> None:
        recovered = [] if time.monotonic() < self._away_until else self._store.recover_lost()
        for job_id in recovered:
            _logger.warning("job %s lost its worker", job_id, extra={"event": "lost", "job_id": job_id})
        for job_id in self._store.take_unpublished(recovered, self._republish_seconds):
            self._queue.publish(job_id)

    def _remove_leftovers_if_due(self) -> None:
        """List the files of jobs, of which each waiting job may have one; at most a tenth of the time."""
        started = time.monotonic()
        if started >= self._next_scan:
            self._remove_leftovers()
            ended = time.monotonic()
            self._next_scan = ended + (ended - started) / _MAX_SHARE_OF_SCANNING

    def _remove_leftovers(self) -> None:
        self._storage.settle()
        leftovers = Leftovers(self._storage)
        # Checkpoints of workers that died between the end of a job and their removal. The files are listed before the
        # jobs are looked up: a job that starts in between keeps its own.
        for job_id in leftovers.ended_jobs(self._checkpoints.job_ids()):
            self._storage.require()
            self._checkpoints.discard(job_id)
        # Requests of processes that died then, or, long ago, between writing the request and the record of its job.
        ended, abandoned = self._requests.job_ids(0.0), self._requests.job_ids(ABANDONED_SECONDS)
        for job_id in [*self._store.finished_among(ended), *leftovers.abandoned_requests(abandoned, ABANDONED_SECONDS)]:
            self._storage.require()
            self._requests.discard(job_id)

    async def run(self, pause_seconds: float) -> None:
        """Call `run_once` again and again until cancelled; errors are logged.

        Args:
            pause_seconds: Pause between two runs.
        """
        while True:
            try:
                await run_in_threadpool(self.run_once)
                self._logged_mismatch = ""
            except StorageMismatchError as error:
                if str(error) != self._logged_mismatch:
                    _logger.error("%s", error)
                self._logged_mismatch = str(error)
            except (RedisError, OperationalError) as error:
                _logger.warning("lost jobs cannot be recovered, %s: %s", described(error), error)
            except OSError as error:
                _logger.warning("maintenance ended early: %s", error)
            except Exception:  # the loop must go on: only this task finds lost jobs
                _logger.exception("maintenance failed")
            await asyncio.sleep(pause_seconds)
