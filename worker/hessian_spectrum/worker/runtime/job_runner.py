"""An attempt at a job, or at shards of a job that another worker holds: claim, check, compute, store, close."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import ConnectionError as RedisAwayError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, JobRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.fingerprints import numerics_fingerprint, result_version
from hessian_spectrum.jobs.plans import memory_error, plan_for_worker, plan_job
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError, ShardStore
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.jobs.worker_registry import VerdictStore
from hessian_spectrum.planning.job_plan import JobPlan
from hessian_spectrum.results.arrays import result_arrays
from hessian_spectrum.storage.blob_store import StorageUnavailableError
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.storage.stores import Stores
from hessian_spectrum.telemetry.logging import LOG_FIELDS
from hessian_spectrum.worker.builders import Inputs, checked_request
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import (
    REQUEST_OUTDATED,
    FailureKind,
    JobCancelledError,
    JobFailure,
    WorkerStoppingError,
    job_failure,
    too_large,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.interim import InterimResults
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.runtime.program_process import ProgramProcesses
from hessian_spectrum.worker.runtime.stop_flag import StopFlag
from hessian_spectrum.worker.runtime.supervision import LeaseRenewer, MemoryGuard, RemainingTime
from hessian_spectrum.worker.sharding import (
    Deployment,
    NoShardsLeftError,
    ShardCoordinator,
    ShardLostError,
    ShardWorker,
    own_name,
    take_name,
)

_T = TypeVar("_T")

_SECONDS_BETWEEN_TRIES = 1.0

_SECONDS_TO_KEEP_MESSAGE = 5.0
"""Seconds that a worker which cannot run jobs keeps a message, so that it does not take all messages from others."""

_logger = logging.getLogger(__name__)


def after_crash(inputs: Inputs, crashed_by: str | None) -> Inputs:
    """Return the inputs of an attempt after one whose process died of this signal: products are not recorded."""
    if crashed_by is None or inputs.fallback is not None:
        return inputs
    reason = f"a process that computed this job with recorded products died of {crashed_by}"
    return replace(inputs, fallback=Fallback("forward-over-reverse", reason))


def fingerprint_of(hardware: Hardware, fallback: Fallback | None = None) -> str:
    """Return what two runs must share to round alike, with how products are computed if they are not recorded."""
    return numerics_fingerprint(
        device=str(hardware.device),
        processor=hardware.processor,
        num_threads=hardware.num_threads,
        memory_bytes=hardware.memory_bytes,
        product_method=None if fallback is None else fallback.method,
    )


def hardware_at_present(hardware: Hardware) -> Hardware:
    """Return the hardware with what of its memory is free now.

    On a CPU memory stays what it was when the worker began, so that the same job is always split alike.
    """
    return hardware.at_present() if hardware.device.type == "cuda" else hardware


def parse_request(text: str) -> AnyJobRequest:
    """Return the request of a job in its canonical form.

    Args:
        text: The request as it is stored.

    Returns:
        The request that all requests with the same result have in common.

    Raises:
        JobFailure: If another version of the service wrote it.
    """
    try:
        return JobRequest.model_validate_json(text).root.canonical()
    except ValidationError:
        raise JobFailure(FailureKind.USAGE, REQUEST_OUTDATED) from None


def runs_program(store: JobStore, job_id: str) -> bool:
    """Return whether the job runs a program of a user; one that mentions the word may count as such, too."""
    try:
        return '"exported"' in store.request(job_id)
    except (UnknownJobError, OSError):
        return False


class ShardRunner:
    """Runs shards of jobs by id; if it is killed at any moment, only its last steps are computed again."""

    def __init__(
        self,
        store: JobStore,
        deployment: Deployment,
        *,
        points: PointStore,
        inputs: Inputs,
        hardware: Hardware,
        stopping: Callable[[], bool],
    ) -> None:
        self._store, self._deployment, self._shards = store, deployment, deployment.shards
        self._points, self._inputs, self._hardware, self._stopping = points, inputs, hardware, stopping

    def run(self, job_id: str) -> None:
        """Compute free shards of the job, if there are some for a worker like this one."""
        lease = self._shards.new_lease(job_id, own_name())
        try:
            claim = self._shards.take(lease, self._deployment.fingerprint)
        except ShardPoisonedError:
            return  # the worker that holds the job reports it
        if claim is None:
            _logger.info("job %s needs no worker; its message is dropped", job_id)
            return
        if claim.num_free:
            self._deployment.call(job_id)
        outer_fields = LOG_FIELDS.set({"job_id": job_id})
        try:
            _logger.info("shard claimed", extra={"event": "helping"})
            self._attempt(lease, claim)
        finally:
            LOG_FIELDS.reset(outer_fields)

    def _attempt(self, lease: Lease, claim: Claim) -> None:
        job_id, limit = lease.job_id, self._hardware.memory_limit_bytes
        try:
            with MemoryGuard(limit, lambda problem: self._shards.release(lease, problem)):
                self._compute(lease, claim)
        except (NoShardsLeftError, JobCancelledError, LeaseLostError, ShardPoisonedError):
            _logger.info("no more shards of job %s for this worker", job_id)
            self._shards.release(lease)
        except WorkerStoppingError:
            _logger.warning("a shard of job %s is requeued: the worker stops", job_id)
            self._shards.release(lease)
            self._deployment.call(job_id)
        except (ShardLostError, UnknownJobError) as reason:
            _logger.warning("a shard of job %s is left to others: %s", job_id, reason)
            self._shards.release(lease)
        except Exception as error:  # noqa: BLE001 - the boundary where every error of a computation is translated
            failure = job_failure(error)
            _logger.warning("a shard of job %s failed: %s", job_id, failure.problem.title)
            if failure.kind is not FailureKind.TRANSIENT:
                self._shards.release(lease, failure.problem)

    def _compute(self, lease: Lease, claim: Claim) -> None:
        hardware = self._hardware
        request = parse_request(self._store.request(lease.job_id))
        assert isinstance(request, SpectrumRequest | ExperimentRequest)
        worker = ShardWorker(
            self._deployment,
            lease,
            claim,
            fingerprint=fingerprint_of(hardware),
            has_other_work=self._store.has_queued,
        )
        with LeaseRenewer(worker, lease, stopping=self._stopping) as renewer:
            job = worker.restored()
            if isinstance(request, SpectrumRequest) and request.train is not None and "training" not in job.finished:
                raise ShardLostError("the trained parameters cannot be read")
            checked, inputs = checked_request(
                request,
                self._inputs,
                memory_bytes=hardware.memory_limit_bytes,
                look=lambda: renewer.report("preparing", 0, 0),
            )
            hardware = hardware_at_present(hardware)
            stored = self._store.plan(lease.job_id) if checked is request or checked == request else None
            plan = plan_for_worker(checked, hardware.memory_bytes, stored)
            common: dict[str, Any] = {"inputs": inputs, "job": job, "sharding": worker}
            if isinstance(checked, SpectrumRequest):
                run_spectrum_job(checked, hardware, renewer.report, plan=plan.whole, **common)
            else:
                assert isinstance(checked, ExperimentRequest)
                run_experiment(checked, hardware, renewer.report, plan=plan, store=self._points, **common)


class JobRunner:
    """Runs jobs by id; it may be killed at any step, and the next claim continues from the last checkpoint."""

    def __init__(
        self,
        store: JobStore,
        shards: ShardStore,
        queue: JobQueue,
        *,
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
        self._results, self._checkpoints, self._points = stores.results, stores.checkpoints, stores.points
        self._inputs = inputs
        self._hardware = hardware
        self._settings = settings

    def run(self, job_id: str) -> None:
        """Run the job, or help the worker that has it with its shards; nothing happens if it ended."""
        lease = self._store.claim(job_id, own_name())
        if lease is None:
            deployment = self._deployment(fingerprint_of(self._hardware))
            helper = ShardRunner(
                self._store,
                deployment,
                points=self._points,
                inputs=self._inputs,
                hardware=self._hardware,
                stopping=self._stopping,
            )
            helper.run(job_id)
            return
        request_id = self._store.request_id(job_id)
        fields = {"request_id": request_id} if request_id else {}
        outer_fields = LOG_FIELDS.set({**fields, "job_id": job_id, "attempt": lease.attempt})
        try:
            _logger.info("job claimed", extra={"event": "claimed"})
            state = self._guarded_attempt(lease)
            _logger.info("attempt ended: %s", state, extra={"event": "ended", "state": state})
        finally:
            LOG_FIELDS.reset(outer_fields)

    def _guarded_attempt(self, lease: Lease) -> str:
        try:
            with MemoryGuard(self._hardware.memory_limit_bytes, lambda problem: self._store.fail(lease, problem)):
                return self._attempt(lease)
        except LeaseLostError:
            _logger.warning("job %s was taken away; its work is dropped", lease.job_id)
            return "lost"

    def _attempt(self, lease: Lease) -> str:
        """Attempt the job; return its state afterwards, or `lost`."""
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
            _logger.warning("job %s is requeued: the worker stops", lease.job_id)
            self._queue.publish(lease.job_id)
        return state

    def _compute(self, lease: Lease) -> str:
        request = parse_request(self._store.request(lease.job_id))
        plan = plan_for_worker(request, self._hardware.memory_bytes, self._store.plan(lease.job_id))
        if error := memory_error(request, plan):
            raise too_large(error)
        time_limit = min(self._settings.job_seconds, request.time_limit_seconds or float("inf"))
        with LeaseRenewer(self._store, lease, stopping=self._stopping, time_limit_seconds=time_limit) as renewer:
            hardware = self._hardware
            checked, inputs = checked_request(
                request,
                self._inputs,
                memory_bytes=hardware.memory_limit_bytes,
                look=lambda: renewer.report("preparing", 0, 0),
            )
            inputs = after_crash(inputs, lease.crashed_by)
            fingerprint = fingerprint_of(hardware, inputs.fallback)
            saved = self._checkpoints.of_attempt(lease.job_id, lease.attempt)
            seconds = self._settings.checkpoint_seconds
            job = JobCheckpointer.restored(saved, seconds, device=hardware.device, fingerprint=fingerprint)
            coordinator = ShardCoordinator(self._deployment(fingerprint), lease, job)
            renewer.on_renewal = coordinator.refresh
            try:
                hardware = hardware_at_present(hardware)
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
        """Repeat a step until Redis and the object store respond, since an outage should not cost hours of work.

        Args:
            step: The step, which may be taken again.

        Returns:
            What the step returns.

        Raises:
            ConnectionError: If Redis is away and the worker was told to stop.
            TimeoutError: If Redis does not answer and the worker was told to stop.
            StorageUnavailableError: If the object store is full, or is away and the worker was told to stop.
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
        if isinstance(request, ExperimentRequest):
            return run_experiment(
                request,
                hardware,
                renewer.report,
                inputs=inputs,
                job=job,
                sharding=coordinator,
                plan=plan,
                store=self._points,
            )
        if not isinstance(request, SpectrumRequest):
            return run_hessian_vs_ggn_job(request, hardware, renewer.report, inputs=inputs, job=job, plan=plan)
        whole = plan.whole
        progress = RemainingTime(request, whole, hardware.device, report=renewer.report, expect=renewer.expect)
        return run_spectrum_job(
            request,
            hardware,
            progress,
            inputs=inputs,
            job=job,
            sharding=coordinator,
            plan=whole,
            offer_interim=InterimResults(self._results, renewer.announce_interim).offer,
        )

    def _deployment(self, fingerprint: str) -> Deployment:
        seconds, device = self._settings.checkpoint_seconds, self._hardware.device
        return Deployment(self._shards, self._checkpoints, seconds, device, fingerprint, self._queue.call)

    def _stored(self, output: JobOutput, progress: Progress) -> str:
        """Store the result and its arrays on disk; return the digest of the result."""
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


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """The task of a pool's processes, each of which connects to Redis for one job after the other.

    Attributes:
        settings: Settings of the worker.
        hardware: Device, threads and memory of one job.
        stores: Results, checkpoints and uploaded files.
        models: Directory of model checkpoints.
        stopping: Set when the worker is told to stop.
    """

    settings: WorkerSettings
    hardware: Hardware
    stores: Stores
    models: ModelsDirectory
    stopping: StopFlag

    def job_stores(self, client: Redis) -> tuple[JobStore, ShardStore]:
        """Return the stores of jobs and of shards behind this connection."""
        seconds, attempts = self.settings.lease_seconds, self.settings.max_attempts
        jobs = JobStore(client, lease_seconds=seconds, max_attempts=attempts, requests=self.stores.requests)
        return jobs, ShardStore(client=client, lease_seconds=seconds, max_losses=attempts)

    def run(self, job_id: str, processes: ProgramProcesses | None = None) -> None:
        """Run a job, or leave it to other workers where its result would be lost.

        Args:
            job_id: Id of the job.
            processes: Where jobs of programs run; None: in this process.
        """
        redis_url = self.settings.redis_url.get_secret_value()
        client = connect(redis_url, patient=True)
        store, shards = self.job_stores(client)
        queue = JobQueue(redis_url)
        with client:
            if fault := storage_fault(client, self.settings, self.stores):
                _logger.error("job %s is left to others: %s", job_id, fault)
                self.stopping.wait(_SECONDS_TO_KEEP_MESSAGE)
                queue.call(job_id)
                return
            if processes is not None and processes.is_open and runs_program(store, job_id):
                self._run_apart(job_id, processes, store=store, shards=shards)
                return
            check = CheckpointCheck(self.models, VerdictStore(client, lambda: [result_version()]))
            JobRunner(
                store,
                shards,
                queue,
                stores=self.stores,
                inputs=Inputs(self.models, self.stores.artifacts, check),
                hardware=self.hardware,
                settings=self.settings,
                stopping=self.stopping.is_set,
            ).run(job_id)

    def compute_apart(self, job_id: str) -> None:
        """Run a job in the process that was started for it; the lease names the process of the pool."""
        torch.set_num_threads(self.hardware.num_threads)
        name, _, job_id = job_id.rpartition(" ")
        take_name(name)
        self.run(job_id)

    def _run_apart(self, job_id: str, processes: ProgramProcesses, *, store: JobStore, shards: ShardStore) -> None:
        request = JobRequest.model_validate_json(store.request(job_id)).root
        limit = min(self.settings.job_seconds, request.time_limit_seconds or float("inf"))
        try:
            ending = processes.run(f"{own_name()} {job_id}", limit_seconds=limit)
        except (EOFError, OSError):
            _logger.exception("no process can be started for a job any more: this process ends")
            os._exit(os.EX_TEMPFAIL)
        if ending.exit_code == 0:
            return
        problem, last_problem = ending.problem(limit), ending.last_problem()
        store.mark_worker_lost(
            job_id, own_name(), problem=problem, last_problem=last_problem, crash_signal=ending.crash_signal
        )
        shards.mark_worker_lost(job_id, own_name(), problem=problem, last_problem=last_problem)


def storage_fault(client: Redis, settings: WorkerSettings, stores: Stores) -> str | None:
    """Return why results would be lost, if they would: the directory is gone, or belongs to another Redis.

    Raises:
        RedisError: If Redis cannot be asked.
    """
    if not settings.results_dir.is_dir():
        return "The results directory is gone."
    try:
        return StorageIdentity(client, stores.results, stores.checkpoints).difference()
    except StorageUnavailableError as error:
        return f"{error.strerror}."
    except OSError as error:
        return f"The results directory cannot be read: {error.strerror}."
