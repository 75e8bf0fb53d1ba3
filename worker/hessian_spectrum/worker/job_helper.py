"""What a worker does for a job that another worker has: shards of it, while there is nothing else to do."""

import logging
import os
from collections.abc import Callable

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.planner import plan_for_worker
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError
from hessian_spectrum.jobs.store import JobStore, Lease, LeaseLostError, UnknownJobError
from hessian_spectrum.telemetry.logging import log_fields
from hessian_spectrum.worker.delivery import holder
from hessian_spectrum.worker.failures import FailureKind, job_failure, parse_request
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.lease_keeper import JobCancelledError, LeaseKeeper, WorkerStoppingError
from hessian_spectrum.worker.memory_guard import MemoryGuard
from hessian_spectrum.worker.request_checks import checked_request
from hessian_spectrum.worker.sharing import Deployment, Helper, NothingLeftError, ShardLostError
from hessian_spectrum.worker.sources import Sources
from hessian_spectrum.worker.spectrum_job import run_spectrum_job

_logger = logging.getLogger(__name__)


class JobHelper:
    """Helps with jobs by id; it may be killed at any moment, and whoever goes on loses nothing but its last steps."""

    def __init__(
        self,
        store: JobStore,
        deployment: Deployment,
        sources: Sources,
        hardware: Hardware,
        stopping: Callable[[], bool],
    ) -> None:
        self._store, self._deployment, self._shards = store, deployment, deployment.shards
        self._sources, self._hardware, self._stopping = sources, hardware, stopping

    def help(self, job_id: str) -> None:
        """Compute free shards of the job, if there are some for a worker like this one."""
        lease = self._shards.new_lease(job_id, holder(os.getppid(), os.getpid()))
        try:
            claim = self._shards.take(lease, self._deployment.signature)
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
        except (NothingLeftError, JobCancelledError, LeaseLostError, ShardPoisonedError):
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
        helper = Helper(self._deployment, lease, claim, hardware.numerics_fingerprint(), self._store.has_queued)
        with LeaseKeeper(helper, lease, self._stopping) as keeper:
            resumption = helper.restored()
            if request.train is not None and "training" not in resumption.finished:
                raise ShardLostError("the trained parameters cannot be read")
            options = (hardware.memory_limit_bytes, lambda: keeper.report("preparing", 0, 0))
            checked, sources = checked_request(request, self._sources, *options)
            assert isinstance(checked, SpectrumRequest)
            hardware = hardware.at_present()
            stored = self._store.plan(lease.job_id) if checked is request or checked == request else None
            plan = plan_for_worker(checked, hardware.memory_bytes, stored).whole
            run_spectrum_job(checked, hardware, keeper.report, sources, resumption, helper, plan)
