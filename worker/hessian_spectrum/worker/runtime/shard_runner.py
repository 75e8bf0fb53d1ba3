"""Runs shards of a job that another worker holds, while there is nothing else to do."""

import logging
from collections.abc import Callable

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.plans import plan_for_worker
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.telemetry.logging import log_fields
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import (
    FailureKind,
    JobCancelledError,
    WorkerStoppingError,
    job_failure,
    parse_request,
)
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.inputs import Inputs
from hessian_spectrum.worker.process import own_name
from hessian_spectrum.worker.request_checks import checked_request
from hessian_spectrum.worker.runtime.lease import LeaseRenewer
from hessian_spectrum.worker.runtime.memory_guard import MemoryGuard
from hessian_spectrum.worker.sharding.coordinator import Deployment
from hessian_spectrum.worker.sharding.shard_worker import NoShardsLeftError, ShardLostError, ShardWorker

_logger = logging.getLogger(__name__)


class ShardRunner:
    """Runs shards of jobs by id; it may be killed at any moment, and its last steps alone are then computed again."""

    def __init__(
        self,
        store: JobStore,
        deployment: Deployment,
        inputs: Inputs,
        hardware: Hardware,
        stopping: Callable[[], bool],
    ) -> None:
        self._store, self._deployment, self._shards = store, deployment, deployment.shards
        self._inputs, self._hardware, self._stopping = inputs, hardware, stopping

    def run(self, job_id: str) -> None:
        """Compute free shards of the job, if there are some for a worker like this one."""
        lease = self._shards.new_lease(job_id, own_name())
        try:
            claim = self._shards.take(lease, self._deployment.fingerprint)
        except ShardPoisonedError:
            return  # whoever has the job says so
        if claim is None:
            _logger.info("job %s needs no worker; its message is dropped", job_id)
            return
        if claim.num_free:
            self._deployment.call(job_id)
        with log_fields(job_id=job_id):
            _logger.info("shard claimed", extra={"event": "helping"})
            self._attempt(lease, claim)

    def _attempt(self, lease: Lease, claim: Claim) -> None:
        job_id, limit = lease.job_id, self._hardware.memory_limit_bytes
        try:
            with MemoryGuard(limit, lambda problem: self._shards.release(lease, problem)):
                self._compute(lease, claim)
        except (NoShardsLeftError, JobCancelledError, LeaseLostError, ShardPoisonedError):
            _logger.info("no more shards of job %s for this worker", job_id)
            self._shards.release(lease)
        except WorkerStoppingError:
            _logger.warning("a shard of job %s is given back: the worker stops", job_id)
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
        assert isinstance(request, SpectrumRequest)
        worker = ShardWorker(
            self._deployment,
            lease,
            claim,
            fingerprint=hardware.numerics_fingerprint(),
            has_other_work=self._store.has_queued,
        )
        with LeaseRenewer(worker, lease, self._stopping) as renewer:
            job = worker.restored()
            if request.train is not None and "training" not in job.finished:
                raise ShardLostError("the trained parameters cannot be read")
            checked, inputs = checked_request(
                request,
                self._inputs,
                memory_bytes=hardware.memory_limit_bytes,
                look=lambda: renewer.report("preparing", 0, 0),
            )
            assert isinstance(checked, SpectrumRequest)
            hardware = hardware.at_present()
            stored = self._store.plan(lease.job_id) if checked is request or checked == request else None
            plan = plan_for_worker(checked, hardware.memory_bytes, stored).whole
            run_spectrum_job(checked, hardware, renewer.report, inputs=inputs, job=job, sharding=worker, plan=plan)
