"""A worker with nothing else to do, which computes shards of a job that another worker holds."""

import math
from collections.abc import Callable
from typing import NoReturn

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.api_schemas.jobs import Progress as JobProgress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.jobs.record import Lease
from hessian_spectrum.jobs.shards import Claim
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.process import own_name
from hessian_spectrum.worker.sharding.coordinator import Deployment
from hessian_spectrum.worker.sharding.shards import ShardedMethod


class NoShardsLeftError(Exception):
    """A shard worker has computed what there was for it; the coordinator makes the spectrum."""


class ShardLostError(Exception):
    """The result of a shard could not be saved, or what it depends on is not there."""


class ShardWorker:
    """Computes shards of a job that another worker holds.

    Args:
        deployment: What workers share.
        lease: Of the shards.
        claim: The first shard.
        fingerprint: Of what computes, as the checkpoints of jobs have it.
        has_other_work: Returns whether jobs wait.
    """

    def __init__(
        self,
        deployment: Deployment,
        lease: Lease,
        claim: Claim,
        *,
        fingerprint: str,
        has_other_work: Callable[[], bool],
    ) -> None:
        self._deployment, self._lease, self._claim = deployment, lease, claim
        self._fingerprint, self._has_other_work, self.workers = fingerprint, has_other_work, {own_name()}
        self._job = JobCheckpointer()
        self._products: tuple[int, int] | None = None  # shard, products

    def restored(self) -> JobCheckpointer:
        """Return what the coordinator has saved for shard workers, which only read it."""
        checkpoints = self._deployment.checkpoints.of_attempt(self._lease.job_id, 0)
        self._job = JobCheckpointer.restored(
            checkpoints, math.inf, device=self._deployment.device, fingerprint=self._fingerprint
        )
        return self._job

    def renew(self, lease: Lease, progress: JobProgress | None, num_products: int = 0) -> JobState:
        """Renew the lease for a `LeaseRenewer`; a worker that lost it stops as if the job was cancelled.

        Products are stored for this shard alone; the coordinator counts those of the job.
        """
        return "running" if self._deployment.shards.renew(lease, self._products) else "cancelling"

    def close_cancelled(self, lease: Lease) -> JobState:
        """Release the shard."""
        self._deployment.shards.release(lease)
        return "cancelled"

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        """End the job with a problem, by way of the worker that holds it."""
        self._deployment.shards.release(lease, problem)
        return "failed"

    def states(self, task: ShardedMethod, execution: Execution, progress: Progress, stage: Stage) -> NoReturn:
        """Compute free shards until there are none.

        Raises:
            NoShardsLeftError: At last.
            ShardLostError: If what is computed here does not fit what is computed there.
        """
        if self._deployment.fingerprint_of(task, self._job) != self._claim.fingerprint:
            raise ShardLostError("it is computed in another way there")
        claim: Claim | None = self._claim
        while claim is not None:
            job_id, report = self._lease.job_id, self._reporting(claim.index, progress)
            result = self._deployment.compute(task, claim, job_id=job_id, begun=None, progress=report)
            if not result.is_saved:
                raise ShardLostError(f"shard {claim.index} of job {job_id} could not be saved")
            waiting = self._has_other_work()
            num_products = task.num_done(claim.index, result.state)
            claim = self._deployment.shards.finish(self._lease, claim.index, num_products, go_on=not waiting)
            if waiting:
                self._deployment.call(job_id)
        raise NoShardsLeftError

    def _reporting(self, index: int, progress: Progress) -> Progress:
        def report(phase: str, done: int, total: int) -> None:
            self._products = (index, done) if phase == "products" else None
            progress(phase, done, total)

        return report
