"""One attempt at a job: claim, compute, store, close."""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisAwayError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hessian_spectrum.api_schemas.job_requests import AnyJobRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.curvature.progress import Progress
from hessian_spectrum.jobs.estimate import estimate
from hessian_spectrum.jobs.job_checkpoints import CheckpointStore
from hessian_spectrum.jobs.job_estimate import job_memory_error
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.results import ResultStore
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.shards import ShardStore
from hessian_spectrum.jobs.store import JobStore, Lease, LeaseLostError
from hessian_spectrum.logs.context import log_fields
from hessian_spectrum.serialization.result_arrays import result_arrays
from hessian_spectrum.worker.answer import Answer
from hessian_spectrum.worker.code_version import code_version
from hessian_spectrum.worker.delivery import holder
from hessian_spectrum.worker.failures import FailureKind, job_failure, parse_request, too_large
from hessian_spectrum.worker.forecast import Forecast
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.hessian_vs_ggn_job import run_hessian_vs_ggn_job
from hessian_spectrum.worker.job_helper import JobHelper
from hessian_spectrum.worker.lease_keeper import JobCancelledError, LeaseKeeper, WorkerStoppingError
from hessian_spectrum.worker.memory_guard import MemoryGuard
from hessian_spectrum.worker.request_checks import after_crash, checked_request, signature_with
from hessian_spectrum.worker.resumption import Resumption
from hessian_spectrum.worker.sharing import Deployment, Leader
from hessian_spectrum.worker.sources import Sources
from hessian_spectrum.worker.spectrum_job import run_spectrum_job

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class JobRunner:
    """Runs jobs by id; every step may be killed, and the next claim goes on from the last checkpoint."""

    def __init__(
        self,
        store: JobStore,
        shards: ShardStore,
        queue: JobQueue,
        results: ResultStore,
        sources: Sources,
        hardware: Hardware,
        settings: WorkerSettings,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._shards = shards
        self._queue = queue
        self._stopping = stopping
        self._results = results
        self._sources = sources
        self._hardware = hardware
        self._settings = settings

    def run(self, job_id: str) -> None:
        """Run the job, or help the worker that has it with its shards; nothing happens if it ended."""
        lease = self._store.claim(job_id, holder(os.getppid(), os.getpid()))
        if lease is None:
            deployment = self._deployment(CheckpointStore(self._settings.checkpoints_dir), self._hardware.signature)
            JobHelper(self._store, deployment, self._sources, self._hardware, self._stopping).help(job_id)
            return
        request_id = self._store.request_id(job_id)
        with log_fields(**({"request_id": request_id} if request_id else {}), job_id=job_id, attempt=lease.attempt):
            _logger.info("job claimed", extra={"event": "claimed"})
            try:
                with MemoryGuard(self._hardware.memory_limit_bytes, lambda problem: self._store.fail(lease, problem)):
                    state = self._attempt(lease)
            except LeaseLostError:
                _logger.warning("job %s was taken away; its work is dropped", job_id)
                state = "lost"
            _logger.info("attempt ended: %s", state, extra={"event": "ended", "state": state})

    def _attempt(self, lease: Lease) -> str:
        """What became of the job: its state, or `lost`."""
        checkpoints = CheckpointStore(self._settings.checkpoints_dir)
        try:
            digest = self._compute(lease, checkpoints)
        except JobCancelledError:
            state = self._store.close_cancelled(lease)
        except WorkerStoppingError:
            return self._give_back(lease)
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary where every error of a computation is translated
            failure = job_failure(error)
            _logger.warning("job %s failed (%s): %s", lease.job_id, failure.kind.value, failure.problem.title)
            # A transient failure keeps the lease, which lapses: the reaper then tries again and counts the attempts.
            if failure.kind is FailureKind.TRANSIENT:
                with contextlib.suppress(RedisError):
                    self._store.leave(lease, failure.problem)
                return "lost"
            state = self._store.fail(lease, failure.problem)
        else:
            state = self._outlasting(lambda: self._store.succeed(lease, digest, code_version()))
        checkpoints.discard(lease.job_id)
        return state

    def _give_back(self, lease: Lease) -> str:
        state = self._store.give_back(lease)
        if state == "queued":
            _logger.warning("job %s is given back: the worker stops", lease.job_id)
            self._queue.publish(lease.job_id)
        return state

    def _compute(self, lease: Lease, checkpoints: CheckpointStore) -> str:
        request = parse_request(self._store.request(lease.job_id))
        if error := job_memory_error(request, self._hardware.memory_bytes):
            raise too_large(error)
        time_limit = min(self._settings.job_seconds, request.time_limit_seconds or float("inf"))
        with LeaseKeeper(self._store, lease, self._stopping, time_limit) as keeper:
            hardware, seconds = self._hardware, self._settings.checkpoint_seconds
            options = (hardware.memory_limit_bytes, lambda: keeper.report("preparing", 0, 0))
            request, sources = checked_request(request, self._sources, *options)
            sources = after_crash(sources, lease.crashed_by)
            signature = signature_with(hardware, sources.fallback)
            kept = checkpoints.of_attempt(lease.job_id, lease.attempt)
            resumption = Resumption(kept, seconds, hardware.device, signature)
            leader = Leader(self._deployment(checkpoints, signature), lease, resumption)
            keeper.look = leader.look
            try:
                answer = self._answer(request, hardware.at_present(), keeper, sources, resumption, leader)
            except WorkerStoppingError:
                resumption.save()
                raise
            digest = self._stored(answer, keeper.report)
        self._outlasting(keeper.write_last_progress)
        return digest

    def _outlasting(self, step: Callable[[], _T]) -> _T:
        """What the step gives, once Redis is back: hours of work are not dropped for an outage of minutes.

        Raises:  what it raises; where Redis is away, once the worker stops.
        """
        while True:
            try:
                return step()
            except (RedisAwayError, RedisTimeoutError) as error:
                if self._stopping():
                    raise
                _logger.warning("a job that is done waits for Redis: %s", error)

    def _answer(
        self,
        request: AnyJobRequest,
        hardware: Hardware,
        keeper: LeaseKeeper,
        sources: Sources,
        resumption: Resumption,
        leader: Leader,
    ) -> Answer:
        if not isinstance(request, SpectrumRequest):
            return Answer(run_hessian_vs_ggn_job(request, hardware, keeper.report, sources, resumption))
        plan = estimate(request, hardware.memory_bytes)
        forecast = Forecast(request, plan, hardware.device, keeper.report, keeper.expect)
        return run_spectrum_job(request, hardware, forecast, sources, resumption, leader)

    def _deployment(self, checkpoints: CheckpointStore, signature: str) -> Deployment:
        seconds, device = self._settings.checkpoint_seconds, self._hardware.device
        return Deployment(self._shards, checkpoints, seconds, device, signature, self._queue.call)

    def _stored(self, answer: Answer, progress: Progress) -> str:
        """Digest of the result, once it and its arrays are on disk."""
        result = answer.result
        if not answer.vectors:
            return self._results.write(result.model_dump_json().encode())
        total = sum(array.nbytes for array in answer.vectors.values())

        def report(num_bytes: int) -> None:
            progress("storing", min(num_bytes, total), total)

        with self._results.drafted(result_arrays(result) | answer.vectors, report) as draft:
            shapes = {name: list(array.shape) for name, array in answer.vectors.items()}
            stored = StoredArrays(sha256=draft.sha256, num_bytes=draft.num_bytes, shapes=shapes)
            report(total)
            return self._results.write(result.model_copy(update={"arrays": stored}).model_dump_json().encode(), draft)
