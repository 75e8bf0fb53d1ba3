"""One attempt at a job: claim, compute, store, close."""

import contextlib
import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisAwayError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hessian_spectrum.api_schemas.jobs import AnyJobRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.fingerprints import result_version
from hessian_spectrum.jobs.plans import memory_error, plan_for_worker, plan_job
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.shards import ShardStore
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.planning.job_plan import JobPlan
from hessian_spectrum.serialization.result_arrays import result_arrays
from hessian_spectrum.storage.blob_store import StorageUnavailableError
from hessian_spectrum.storage.stores import Stores
from hessian_spectrum.telemetry.logging import log_fields
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.outcome import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import (
    FailureKind,
    JobCancelledError,
    WorkerStoppingError,
    job_failure,
    parse_request,
    too_large,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.inputs import Inputs
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.process import own_name
from hessian_spectrum.worker.request_checks import after_crash, checked_request, fingerprint_with
from hessian_spectrum.worker.runtime.eta import RemainingTime
from hessian_spectrum.worker.runtime.lease import LeaseRenewer
from hessian_spectrum.worker.runtime.memory_guard import MemoryGuard
from hessian_spectrum.worker.runtime.shard_runner import ShardRunner
from hessian_spectrum.worker.sharding.coordinator import Deployment, ShardCoordinator

_T = TypeVar("_T")

_SECONDS_BETWEEN_TRIES = 1.0

_logger = logging.getLogger(__name__)


class JobRunner:
    """Runs jobs by id; every step may be killed, and the next claim goes on from the last checkpoint."""

    def __init__(
        self,
        store: JobStore,
        shards: ShardStore,
        queue: JobQueue,
        stores: Stores,
        inputs: Inputs,
        hardware: Hardware,
        settings: WorkerSettings,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._shards = shards
        self._queue = queue
        self._stopping = stopping
        self._results, self._checkpoints = stores.results, stores.checkpoints
        self._inputs = inputs
        self._hardware = hardware
        self._settings = settings

    def run(self, job_id: str) -> None:
        """Run the job, or help the worker that has it with its shards; nothing happens if it ended."""
        lease = self._store.claim(job_id, own_name())
        if lease is None:
            deployment = self._deployment(self._hardware.numerics_fingerprint())
            ShardRunner(self._store, deployment, self._inputs, self._hardware, self._stopping).run(job_id)
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
        try:
            digest = self._compute(lease)
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
                    self._store.release_after_error(lease, failure.problem)
                return "lost"
            state = self._store.fail(lease, failure.problem)
        else:
            state = self._outlasting(lambda: self._store.succeed(lease, digest, result_version()))
        self._checkpoints.discard(lease.job_id)
        return state

    def _give_back(self, lease: Lease) -> str:
        state = self._store.requeue(lease)
        if state == "queued":
            _logger.warning("job %s is given back: the worker stops", lease.job_id)
            self._queue.publish(lease.job_id)
        return state

    def _compute(self, lease: Lease) -> str:
        request = parse_request(self._store.request(lease.job_id))
        plan = plan_for_worker(request, self._hardware.memory_bytes, self._store.plan(lease.job_id))
        if error := memory_error(request, plan):
            raise too_large(error)
        time_limit = min(self._settings.job_seconds, request.time_limit_seconds or float("inf"))
        with LeaseRenewer(self._store, lease, self._stopping, time_limit) as renewer:
            hardware = self._hardware
            checked, inputs = checked_request(
                request,
                self._inputs,
                memory_bytes=hardware.memory_limit_bytes,
                look=lambda: renewer.report("preparing", 0, 0),
            )
            inputs = after_crash(inputs, lease.crashed_by)
            fingerprint = fingerprint_with(hardware, inputs.fallback)
            saved = self._checkpoints.of_attempt(lease.job_id, lease.attempt)
            seconds = self._settings.checkpoint_seconds
            job = JobCheckpointer.restored(saved, seconds, device=hardware.device, fingerprint=fingerprint)
            coordinator = ShardCoordinator(self._deployment(fingerprint), lease, job)
            renewer.on_renewal = coordinator.refresh
            try:
                hardware = hardware.at_present()
                if (checked is not request and checked != request) or hardware.memory_bytes != plan.memory_bytes:
                    plan = plan_job(checked, hardware.memory_bytes)
                output = self._output(
                    checked, renewer, plan=plan, hardware=hardware, inputs=inputs, job=job, coordinator=coordinator
                )
            except WorkerStoppingError:
                job.save()
                raise
            digest = self._outlasting(lambda: self._stored(output, renewer.report))
        self._outlasting(renewer.write_last_progress)
        return digest

    def _outlasting(self, step: Callable[[], _T]) -> _T:
        """What the step gives, once Redis and the object store are back: an outage of minutes costs no hours of work.

        Raises:  what it raises; where one of them is away, once the worker stops.
        """
        while True:
            try:
                return step()
            except (RedisAwayError, RedisTimeoutError) as error:
                if self._stopping():
                    raise
                _logger.warning("a job that is done waits for Redis: %s", error)
            except StorageUnavailableError as error:
                if self._stopping() or error.errno == errno.ENOSPC:
                    raise
                _logger.warning("a job that is done waits for the object store: %s", error)
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def _output(
        self,
        request: AnyJobRequest,
        renewer: LeaseRenewer,
        *,
        plan: JobPlan,
        hardware: Hardware,
        inputs: Inputs,
        job: JobCheckpointer,
        coordinator: ShardCoordinator,
    ) -> JobOutput:
        if not isinstance(request, SpectrumRequest):
            return run_hessian_vs_ggn_job(request, hardware, renewer.report, inputs=inputs, job=job, plan=plan)
        whole = plan.whole
        progress = RemainingTime(request, whole, hardware.device, report=renewer.report, expect=renewer.expect)
        return run_spectrum_job(request, hardware, progress, inputs=inputs, job=job, sharding=coordinator, plan=whole)

    def _deployment(self, fingerprint: str) -> Deployment:
        seconds, device = self._settings.checkpoint_seconds, self._hardware.device
        return Deployment(self._shards, self._checkpoints, seconds, device, fingerprint, self._queue.call)

    def _stored(self, output: JobOutput, progress: Progress) -> str:
        """Digest of the result, once it and its arrays are on disk."""
        result = output.result
        if not output.arrays:
            return self._results.write(result.model_dump_json().encode())
        total = sum(array.nbytes for array in output.arrays.values())

        def report(num_bytes: int) -> None:
            progress("storing", min(num_bytes, total), total)

        with self._results.drafted(result_arrays(result) | output.arrays, report) as draft:
            shapes = {name: list(array.shape) for name, array in output.arrays.items()}
            stored = StoredArrays(sha256=draft.sha256, num_bytes=draft.num_bytes, shapes=shapes)
            report(total)
            return self._results.write(result.model_copy(update={"arrays": stored}).model_dump_json().encode(), draft)
