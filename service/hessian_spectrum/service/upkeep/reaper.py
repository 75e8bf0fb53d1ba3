"""The reaper: sends jobs again whose worker died or whose message was lost, and removes what ended ones left."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.jobs.job_checkpoints import CheckpointStore
from hessian_spectrum.jobs.leftovers import Leftovers
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.redis_faults import described
from hessian_spectrum.jobs.request_files import ABANDONED_SECONDS, RequestFiles
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore

_logger = logging.getLogger(__name__)

_AWAY = (redis.ConnectionError, redis.TimeoutError)
"""A Redis that refuses something, as one without memory does, hears its workers all the same."""


class Reaper:
    """Any number of services may run one at the same time: each step is decided in Redis."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        checkpoints: CheckpointStore,
        requests: RequestFiles,
        storage: StorageIdentity,
        republish_seconds: float,
        lease_seconds: float,
        keep_house: Callable[[], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._checkpoints = checkpoints
        self._requests = requests
        self._storage = storage
        self._republish_seconds = republish_seconds
        self._lease_seconds = lease_seconds
        self._away_until = -math.inf
        self._keep_house = keep_house
        self._mismatch = ""
        """That was logged already; it may last for days."""

    def sweep(self) -> None:
        """Look once.

        While Redis was away no worker could keep its lease: each has the time of one to be heard again.

        Raises:
            RedisError: If Redis is away, OSError if the disk is, StorageMismatchError if the two do not belong
                together; the next sweep goes on.
            OperationalError: If Redis is away, OSError if the disk is, StorageMismatchError if the two do not belong
                together; the next sweep goes on.
        """
        try:
            self._look()
        except _AWAY:
            self._away_until = time.monotonic() + self._lease_seconds
            raise

    def _look(self) -> None:
        recovered = [] if time.monotonic() < self._away_until else self._store.recover_lost()
        for job_id in recovered:
            _logger.warning("job %s lost its worker", job_id, extra={"event": "lost", "job_id": job_id})
        for job_id in self._store.take_unpublished(recovered, self._republish_seconds):
            self._queue.publish(job_id)
        self._store.take_stock()  # for which a full Redis has no room
        self._storage.settle()
        leftovers = Leftovers(self._storage)
        # of workers that died between the end of a job and its last wishes; listed before the jobs are looked up
        for job_id in leftovers.ended_jobs(self._checkpoints.job_ids()):
            self._storage.require()
            self._checkpoints.discard(job_id)
        # of processes that died then, or, long ago, between writing a request and the record of its job
        ended, abandoned = self._requests.job_ids(0.0), self._requests.job_ids(ABANDONED_SECONDS)
        for job_id in [*self._store.ended(ended), *leftovers.abandoned_requests(abandoned, ABANDONED_SECONDS)]:
            self._storage.require()
            self._requests.discard(job_id)
        self._keep_house()

    async def run(self, pause_seconds: float) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await run_in_threadpool(self.sweep)
                self._mismatch = ""
            except StorageMismatchError as error:
                if str(error) != self._mismatch:
                    _logger.error("%s", error)
                self._mismatch = str(error)
            except (RedisError, OperationalError) as error:
                _logger.warning("no sweep, %s: %s", described(error), error)
            except OSError as error:
                _logger.warning("a sweep ended early: %s", error)
            except Exception:  # nobody else finds lost jobs
                _logger.exception("a sweep failed")
            await asyncio.sleep(pause_seconds)
