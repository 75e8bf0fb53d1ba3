"""The shards of a long job: on one worker one after the other, or on as many as have nothing else to do."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.api_schemas.jobs import Progress as JobProgress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.curvature.algorithms.stochastic_lanczos import LanczosSweep
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.curvature.progress import Continuation, Progress
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError, ShardStore
from hessian_spectrum.jobs.store import WORKERS_LOST, Lease
from hessian_spectrum.storage.job_checkpoints import CheckpointStore
from hessian_spectrum.worker.delivery import holder
from hessian_spectrum.worker.failures import FailureKind, JobFailure
from hessian_spectrum.worker.lease_keeper import WorkerStoppingError
from hessian_spectrum.worker.resumption import Resumption, Unit

UNIT = "probes"
"""Of a job's own checkpoints or those of a shard: what a shard consists of."""

SECONDS_BETWEEN_LOOKS = 0.1
"""At shards that others compute, when there is nothing else to do."""


class NothingLeftError(Exception):
    """A helper has computed what there was for it; the spectrum is another's."""


class ShardLostError(Exception):
    """The result of a shard could not be kept, or what it depends on is not there."""


class Work(Protocol):
    """What is cut into shards."""

    num_shards: int
    num_products: int  # of all shards together
    setup: tuple[int, int, int, int]  # on which the numbers depend, beside the request

    def begin(self) -> LanczosSweep:
        """State of the first shard after its first product."""

    def take(self, index: int, progress: Progress, continuation: Continuation) -> LanczosSweep:
        """What a shard gives."""


class Sharing(Protocol):
    """Who computes the shards."""

    workers: set[str]  # that computed them

    def sweeps(self, work: Work, execution: Execution, progress: Progress) -> list[LanczosSweep]:
        """What all shards give, in their order; the same numbers whoever computed them."""


class Alone:
    """One worker, which keeps the states of shards among those of its job."""

    def __init__(self, resumption: Resumption) -> None:
        self._resumption, self.workers = resumption, {worker_name()}

    def sweeps(self, work: Work, execution: Execution, progress: Progress) -> list[LanczosSweep]:
        """One after the other."""
        return self._in_turn(work, self._settled(work, execution, progress), progress)

    def _settled(self, work: Work, execution: Execution, progress: Progress) -> LanczosSweep | None:
        """State of the first shard after the first product of all; None if an earlier attempt has taken that.

        It settles how the products of all shards run, as that decides about their roundings.
        """
        if "settled" in self._resumption.notes:
            return None
        begun = work.begin()
        execution.settle()
        progress("products", begun.num_settled, work.num_products)
        self._resumption.notes["settled"] = True
        return begun

    def _in_turn(self, work: Work, begun: LanczosSweep | None, progress: Progress) -> list[LanczosSweep]:
        found: list[LanczosSweep] = []
        for index in range(work.num_shards):
            unit = self._resumption.unit(f"{UNIT} {index}")
            if unit.value is None:
                unit.state, begun = unit.state or begun, None
                before = sum(sweep.num_settled for sweep in found)
                unit.finish(work.take(index, _after(before, work, progress), unit))
            found.append(_sweep(unit))
        return found


@dataclass(frozen=True)
class Deployment:
    """What workers share, and what this one computes on."""

    shards: ShardStore
    checkpoints: CheckpointStore
    seconds: float  # from one checkpoint to the next
    device: torch.device
    signature: str  # of what computes
    call: Callable[[str], None]
    """Wake another worker for the shards of a job, if one is free."""

    def kept(self, job_id: str, index: int, attempt: int, setup: str) -> Resumption:
        """Of one shard."""
        return Resumption(
            self.checkpoints.of_shard(job_id, index, attempt), self.seconds, self.device, f"{self.signature}, {setup}"
        )

    def take(self, work: Work, claim: Claim, job_id: str, begun: LanczosSweep | None, progress: Progress) -> "Part":
        """Compute a shard that was claimed, from where an earlier worker left it."""
        kept = self.kept(job_id, claim.index, claim.attempt, claim.setup)
        unit = kept.unit(UNIT)
        if unit.value is None:
            kept.notes["workers"] = sorted({worker_name(), *kept.notes.get("workers", [])})
            unit.state = unit.state or begun
            try:
                unit.finish(work.take(claim.index, progress, unit))
            except WorkerStoppingError:
                kept.save()
                raise
        return Part(_sweep(unit), set(kept.notes["workers"]), kept.save())


@dataclass(frozen=True)
class Part:
    """What a shard gave."""

    sweep: LanczosSweep
    workers: set[str]
    is_stored: bool = True


class Leader(Alone):
    """The worker that holds the job: it computes shard after shard, calls others to do the same, and joins the results.

    Where others still compute when it finds nothing to do, it waits for them, or for their leases to lapse.

    Args:
        lease: Of the job.
        resumption: Of which `save` makes what helpers need readable.
    """

    def __init__(self, deployment: Deployment, lease: Lease, resumption: Resumption) -> None:
        super().__init__(resumption)
        self._deployment, self._shards, self._lease = deployment, deployment.shards, lease
        self._own: dict[int, int] = {}  # products of shards, as this worker knows
        self._told: dict[int, int] = {}  # as Redis does
        self._num_told = 0
        self._problem: Problem | None = None
        self._is_open = False

    def look(self) -> None:
        """Hear how far others are; called by the thread that keeps the lease.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._is_open:
            self._told, self._problem = self._shards.products(self._lease.job_id)

    def sweeps(self, work: Work, execution: Execution, progress: Progress) -> list[LanczosSweep]:
        """Those of this worker and of others."""
        begun = self._settled(work, execution, progress)
        if not self._resumption.save():
            return self._in_turn(work, begun, progress)
        try:
            parts = self._parts(work, begun, progress)
        except ShardPoisonedError:
            problem = self._shards.last_loss(self._lease.job_id) or WORKERS_LOST
            raise JobFailure(FailureKind.FATAL, problem) from None
        self._own = {index: part.sweep.num_settled for index, part in parts.items()}
        self._tell(work, progress)
        self.workers = {name for part in parts.values() for name in part.workers}
        return [parts[index].sweep for index in range(work.num_shards)]

    def _parts(self, work: Work, begun: LanczosSweep | None, progress: Progress) -> dict[int, Part]:
        deployment, lease, parts = self._deployment, self._lease, dict[int, Part]()
        setup = _setup(deployment, self._resumption, work)

        def claimed() -> Claim | None:
            return self._shards.open(lease, work.num_shards, setup, deployment.signature)

        claim = claimed()
        self._is_open = True
        self.look()
        while len(parts) < work.num_shards:
            if claim is not None:
                if claim.num_free:
                    deployment.call(lease.job_id)
                told = self._telling(claim.index, work, progress)
                first = begun if claim.index == 0 else None
                part = parts[claim.index] = deployment.take(work, claim, lease.job_id, first, told)
                claim = self._shards.finish(lease, claim.index, part.sweep.num_settled, go_on=True)
            elif self._shards.num_left(lease.job_id):
                self._tell(work, progress)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                claim = claimed()
            else:
                self._collect(parts, setup, work.num_shards)
                claim = claimed()
        return parts

    def _collect(self, parts: dict[int, Part], setup: str, num_shards: int) -> None:
        """Read what others have computed; what of that is lost is to be computed again."""
        for index in set(range(num_shards)) - parts.keys():
            kept = self._deployment.kept(self._lease.job_id, index, 0, setup)
            value = kept.unit(UNIT).value
            if value is None:
                self._shards.reopen(self._lease, index)
            else:
                parts[index] = Part(value, set(kept.notes["workers"]))

    def _telling(self, index: int, work: Work, progress: Progress) -> Progress:
        """Progress of a shard as that of all."""

        def tell(phase: str, done: int, total: int) -> None:
            if phase == "products":
                self._own[index] = done
                self._tell(work, progress)
            else:
                progress(phase, done, total)

        return tell

    def _tell(self, work: Work, progress: Progress) -> None:
        if self._problem is not None:
            raise JobFailure(FailureKind.FATAL, self._problem)
        # a shard that lost its worker goes on from its checkpoint: what was told is not taken back
        self._num_told = max(self._num_told, sum((self._told | self._own).values()))
        progress("products", self._num_told, work.num_products)
        self._resumption.save_if_due()


class Helper:
    """A worker with nothing else to do: it computes shards of a job that another holds.

    Args:
        claim: Of its first shard.
        signature: Of the checkpoints of jobs.
        has_other_work: Whether jobs wait.
    """

    def __init__(
        self, deployment: Deployment, lease: Lease, claim: Claim, signature: str, has_other_work: Callable[[], bool]
    ) -> None:
        self._deployment, self._lease, self._claim = deployment, lease, claim
        self._signature, self._has_other_work, self.workers = signature, has_other_work, {worker_name()}
        self._resumption = Resumption()
        self._told: tuple[int, int] | None = None  # shard, products

    def restored(self) -> Resumption:
        """What the leader has saved for its helpers, to be read only."""
        kept = self._deployment.checkpoints.of_attempt(self._lease.job_id, 0)
        self._resumption = Resumption(kept, math.inf, self._deployment.device, self._signature)
        return self._resumption

    def renew(self, lease: Lease, progress: JobProgress | None, num_products: int = 0) -> JobState:
        """Keep the lease for a `LeaseKeeper`; a helper that lost it stops as if the job was cancelled.

        Products are told for this shard alone, the leader counts those of the job.
        """
        return "running" if self._deployment.shards.renew(lease, self._told) else "cancelling"

    def close_cancelled(self, lease: Lease) -> JobState:
        """Leave the shard to nobody."""
        self._deployment.shards.release(lease)
        return "cancelled"

    def sweeps(self, work: Work, execution: Execution, progress: Progress) -> NoReturn:
        """Raises:  NothingLeftError at last; ShardLostError if what is computed here does not fit; as the work."""
        if _setup(self._deployment, self._resumption, work) != self._claim.setup:
            raise ShardLostError("it is computed in another way there")
        claim: Claim | None = self._claim
        while claim is not None:
            job_id = self._lease.job_id
            part = self._deployment.take(work, claim, job_id, None, self._telling(claim.index, progress))
            if not part.is_stored:
                raise ShardLostError(f"shard {claim.index} of job {job_id} could not be kept")
            waiting = self._has_other_work()
            num_products = part.sweep.num_settled
            claim = self._deployment.shards.finish(self._lease, claim.index, num_products, go_on=not waiting)
            if waiting:
                self._deployment.call(job_id)
        raise NothingLeftError

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        """End the job with a problem, by way of whoever holds it."""
        self._deployment.shards.release(lease, problem)
        return "failed"

    def _telling(self, index: int, progress: Progress) -> Progress:
        def tell(phase: str, done: int, total: int) -> None:
            self._told = (index, done) if phase == "products" else None
            progress(phase, done, total)

        return tell


def _sweep(unit: Unit) -> LanczosSweep:
    assert isinstance(unit.value, LanczosSweep)
    return unit.value


def _setup(deployment: Deployment, resumption: Resumption, work: Work) -> str:
    """Digest of all that the numbers of shards depend on beside the request."""
    notes = resumption.notes
    compiled = sorted(name for name, chosen in notes.get("compiled", {}).items() if chosen)
    decisive = [deployment.signature, work.setup, "settled" in notes, compiled, notes.get("precision_deviations")]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def worker_name() -> str:
    """Of this process."""
    return holder(os.getppid(), os.getpid())


def _after(before: int, work: Work, progress: Progress) -> Progress:
    """Progress of a shard as that of all, of which so many products were done before."""

    def tell(phase: str, done: int, total: int) -> None:
        of_all: Any = (before + done, work.num_products) if phase == "products" else (done, total)
        progress(phase, *of_all)

    return tell
