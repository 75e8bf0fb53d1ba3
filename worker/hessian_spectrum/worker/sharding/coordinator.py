"""The worker that holds a job: it computes shards, calls other workers to do the same, and collects the results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.jobs.fingerprints import shard_fingerprint
from hessian_spectrum.jobs.record import Lease
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError, ShardStore
from hessian_spectrum.jobs.store import WORKERS_LOST
from hessian_spectrum.storage.job_checkpoints import CheckpointStore
from hessian_spectrum.worker.failures import FailureKind, JobFailure, WorkerStoppingError
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.process import own_name
from hessian_spectrum.worker.sharding.shards import CALIBRATED, STAGE, LocalSharding, ShardedMethod

SECONDS_BETWEEN_CHECKS = 0.1
"""Time from one look at the shards that others compute to the next, when there is nothing else to do."""


@dataclass(frozen=True)
class ShardResult:
    """What a shard returned."""

    state: Any  # finished
    workers: set[str]  # that computed it
    is_saved: bool = True


@dataclass(frozen=True)
class Deployment:
    """What workers share, and what this one computes on.

    Attributes:
        seconds: Time from one checkpoint to the next.
        fingerprint: Of what computes, as `numerics_fingerprint` returns it.
        call: Wakes another worker for the shards of a job, if one is free.
    """

    shards: ShardStore
    checkpoints: CheckpointStore
    seconds: float
    device: torch.device
    fingerprint: str
    call: Callable[[str], None]

    def shard_checkpointer(self, job_id: str, index: int, attempt: int, shard_fingerprint: str) -> JobCheckpointer:
        """Return what is saved of one shard."""
        checkpoints = self.checkpoints.of_shard(job_id, index, attempt)
        fingerprint = f"{self.fingerprint}, {shard_fingerprint}"
        return JobCheckpointer.restored(checkpoints, self.seconds, device=self.device, fingerprint=fingerprint)

    def compute(
        self, task: ShardedMethod, claim: Claim, *, job_id: str, begun: Any | None, progress: Progress
    ) -> ShardResult:
        """Compute a shard that was claimed, from where an earlier worker left it.

        Args:
            task: Of which the shard is a part.
            claim: The shard.
            job_id: The job that the shard belongs to.
            begun: State to begin with where no worker left one.
            progress: Called with the products of the shard after every step.
        """
        saved = self.shard_checkpointer(job_id, claim.index, claim.attempt, claim.fingerprint)
        stage = saved.stage(STAGE)
        if stage.value is None:
            saved.notes["workers"] = sorted({own_name(), *saved.notes.get("workers", [])})
            stage.begin_with(begun)
            try:
                stage.finish(task.finished(claim.index, progress, stage))
            except WorkerStoppingError:
                saved.save()
                raise
        return ShardResult(stage.value, set(saved.notes["workers"]), saved.save())

    def fingerprint_of(self, task: ShardedMethod, job: JobCheckpointer) -> str:
        """Return the digest of everything that the numbers of the shards depend on beside the request."""
        return shard_fingerprint(
            self.fingerprint,
            partition=task.partition,
            is_calibrated=CALIBRATED in job.notes,
            compiled=job.notes.get("compiled", {}),
            deviations=job.notes.get("precision_deviations"),
        )


class ShardCoordinator(LocalSharding):
    """Computes shards in turn with other workers, as the one that holds the job.

    Where others still compute when it finds nothing to do, it waits for them, or for their leases to lapse.

    Args:
        deployment: What workers share.
        lease: Of the job.
        job: The job's checkpoints; `save` lets other workers read what they need.
    """

    def __init__(self, deployment: Deployment, lease: Lease, job: JobCheckpointer) -> None:
        super().__init__(job)
        self._deployment, self._shards, self._lease = deployment, deployment.shards, lease
        self._own_products: dict[int, int] = {}  # by shard, as this worker knows
        self._stored_products: dict[int, int] = {}  # by shard, as Redis knows
        self._num_reported = 0
        self._problem: Problem | None = None
        self._is_open = False

    def refresh(self) -> None:
        """Read how far others are; called by the thread that renews the lease.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._is_open:
            self._stored_products, self._problem = self._shards.products(self._lease.job_id)

    def states(self, task: ShardedMethod, execution: Execution, progress: Progress, stage: Stage) -> list[Any]:
        """Compute shards together with others; a task of one shard, or one that cannot be shared, alone."""
        if task.num_shards == 1:
            return super().states(task, execution, progress, stage)
        begun = self._calibrated(task, execution, progress)
        if not self._job.save():
            return self._in_turn(task, begun, progress)
        try:
            results = self._results(task, begun, progress)
        except ShardPoisonedError:
            problem = self._shards.last_loss(self._lease.job_id) or WORKERS_LOST
            raise JobFailure(FailureKind.FATAL, problem) from None
        self._own_products = {index: task.num_done(index, result.state) for index, result in results.items()}
        self._report(task, progress)
        self.workers = {name for result in results.values() for name in result.workers}
        return [results[index].state for index in range(task.num_shards)]

    def _results(self, task: ShardedMethod, begun: Any | None, progress: Progress) -> dict[int, ShardResult]:
        deployment, lease, results = self._deployment, self._lease, dict[int, ShardResult]()
        fingerprint = deployment.fingerprint_of(task, self._job)

        def claimed() -> Claim | None:
            return self._shards.open(
                lease,
                task.num_shards,
                shard_fingerprint=fingerprint,
                numerics_fingerprint=deployment.fingerprint,
            )

        claim = claimed()
        self._is_open = True
        self.refresh()
        while len(results) < task.num_shards:
            if claim is not None:
                if claim.num_free:
                    deployment.call(lease.job_id)
                report = self._reporting(claim.index, task, progress)
                first = begun if claim.index == 0 else None
                result = deployment.compute(task, claim, job_id=lease.job_id, begun=first, progress=report)
                results[claim.index] = result
                num_products = task.num_done(claim.index, result.state)
                claim = self._shards.finish(lease, claim.index, num_products, go_on=True)
            elif self._shards.num_left(lease.job_id):
                self._report(task, progress)
                time.sleep(SECONDS_BETWEEN_CHECKS)
                claim = claimed()
            else:
                self._collect(results, fingerprint, task.num_shards)
                claim = claimed()
        return results

    def _collect(self, results: dict[int, ShardResult], fingerprint: str, num_shards: int) -> None:
        """Read what others have computed; what of that is lost is to be computed again."""
        for index in set(range(num_shards)) - results.keys():
            saved = self._deployment.shard_checkpointer(self._lease.job_id, index, 0, fingerprint)
            state = saved.stage(STAGE).value
            if state is None:
                self._shards.reopen(self._lease, index)
            else:
                results[index] = ShardResult(state, set(saved.notes["workers"]))

    def _reporting(self, index: int, task: ShardedMethod, progress: Progress) -> Progress:
        """Progress of a shard as that of all."""

        def report(phase: str, done: int, total: int) -> None:
            if phase == "products":
                self._own_products[index] = done
                self._report(task, progress)
            else:
                progress(phase, done, total)

        return report

    def _report(self, task: ShardedMethod, progress: Progress) -> None:
        if self._problem is not None:
            raise JobFailure(FailureKind.FATAL, self._problem)
        # a shard that lost its worker continues from its checkpoint: what was reported is not taken back
        self._num_reported = max(self._num_reported, sum((self._stored_products | self._own_products).values()))
        progress("products", self._num_reported, task.num_products)
        self._job.save_if_due()
