"""Shards: how a spectrum, or a list of points, is computed by one worker, or by several at once."""

import math
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NoReturn, Protocol

import torch

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.api_schemas.jobs import Progress as JobProgress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.iteration import Progress, iterates
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.operators.programs import Execution
from hessian_spectrum.jobs.fingerprints import shard_fingerprint
from hessian_spectrum.jobs.record import Lease
from hessian_spectrum.jobs.shards import Claim, ShardPoisonedError, ShardStore
from hessian_spectrum.jobs.store import WORKERS_LOST
from hessian_spectrum.storage.job_files import CheckpointStore
from hessian_spectrum.worker.failures import FailureKind, JobFailure, WorkerStoppingError
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage

STAGE = "shard"
"""Name of the stage of a shard, in the checkpoints of its job or in its own."""

CALIBRATED = "calibrated"
"""Note in the state of a job that all its products run in the way that was chosen for the first one."""

SECONDS_BETWEEN_CHECKS = 0.1
"""Seconds between two checks of the shards that others compute, when there is nothing else to do."""


def process_name(worker_pid: int, pid: int) -> str:
    """Return the name of a process of a worker's pool on this host."""
    return f"{socket.gethostname()}-{worker_pid}-{pid}"


_names: list[str] = []  # of the process of the pool that this one computes for, if it is none itself


def take_name(name: str) -> None:
    """Give this process the name of the one of a worker's pool for which it computes."""
    _names[:] = [name]


def own_name() -> str:
    """Return the name of this process of a worker's pool."""
    return _names[0] if _names else process_name(os.getppid(), os.getpid())


class ShardedTask(ABC):
    """Work that is divided into shards, each computed by one worker.

    Attributes:
        phase: What progress counts.
    """

    phase: ClassVar[str]

    @property
    @abstractmethod
    def num_shards(self) -> int:
        """Number of shards."""

    @property
    @abstractmethod
    def partition(self) -> Any:
        """What decides which numbers are computed together, as JSON can hold it; the numbers depend on it."""

    @property
    @abstractmethod
    def total(self) -> int:
        """Units of progress of all shards together."""

    @abstractmethod
    def num_done(self, index: int, state: Any) -> int:
        """Return the units of a shard that are accounted for in its state."""

    def observe(self, index: int, state: Any) -> None:  # noqa: B027 - most tasks have no use for it
        """Take note of the present state of a shard, which may change later."""

    @abstractmethod
    def first_step(self) -> Any | None:
        """Take the step that decides how the products of all shards run; None if there is nothing to decide."""

    @abstractmethod
    def finished(self, index: int, progress: Progress, stage: Stage) -> Any:
        """Return the finished state of a shard, computed from where the stage restores it."""


@dataclass(frozen=True)
class ShardedMethod(ShardedTask):
    """A method for one spectrum, divided into shards, and the operator that it is applied to.

    Attributes:
        new_generator: Returns the generator of the spectrum's random numbers, in its first state.
        sizes: Sizes that decide, with the number of shards, which vectors are multiplied together.
        on_states: Called after every step here with the states of all shards that are known here.
    """

    phase: ClassVar[str] = "products"
    method: Method[Any, Any]
    operator: SymmetricOperator
    new_generator: Callable[[], torch.Generator]
    num_parts: int
    sizes: tuple[int, ...]
    on_states: Callable[[Sequence[Any]], None] = lambda _: None
    _states: dict[int, Any] = field(default_factory=dict, init=False)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return self.num_parts

    @property
    def partition(self) -> tuple[int, ...]:
        """The number of shards, and the sizes."""
        return (self.num_parts, *self.sizes)

    @cached_property
    def shards(self) -> Sequence[Method[Any, Any]]:
        """The method of each shard."""
        return self.method.split(self.num_parts)

    @property
    def total(self) -> int:
        """Products of all shards together."""
        return self.method.cost(self.operator.dim).num_products

    def num_done(self, index: int, state: Any) -> int:
        """Return the products of a shard that are accounted for in its state."""
        return self.shards[index].count(state).done

    def observe(self, index: int, state: Any) -> None:
        """Take note of the present state of a shard, and pass on all that are known."""
        self._states[index] = state
        self.on_states([self._states[each] for each in sorted(self._states)])

    def first_step(self) -> Any:
        """Return the state of the first shard after its first product."""
        shard = self.shards[0]
        return shard.step(self.operator, shard.init(self.operator, generator=self.new_generator()))

    def finished(self, index: int, progress: Progress, stage: Stage) -> Any:
        """Return the finished state of a shard, computed from where the stage restores it."""
        states = iterates(
            self.shards[index],
            self.operator,
            generator=self.new_generator(),
            progress=progress,
            checkpointer=stage,
        )
        for state in states:
            self.observe(index, state)
        return self._states[index]


class Sharding(Protocol):
    """The interface for computing the shards of a job by one worker or by several."""

    workers: set[str]
    """Names of the processes that computed the shards."""

    def states(self, task: ShardedTask, execution: Execution | None, *, progress: Progress, stage: Stage) -> list[Any]:
        """Return the finished states of all shards in their order; the same numbers whoever computed them.

        Args:
            task: The steps to take.
            execution: The way in which products are executed; None if the shards decide that for themselves.
            progress: Called after every step with the progress of the whole task.
            stage: Stage of the spectrum; it holds the state of a task of one shard.
        """


class LocalSharding:
    """Computes all shards in one worker, and keeps their states among those of its job."""

    def __init__(self, job: JobCheckpointer) -> None:
        self._job, self.workers = job, {own_name()}

    def states(self, task: ShardedTask, execution: Execution | None, *, progress: Progress, stage: Stage) -> list[Any]:
        """Compute the shards one after the other."""
        if task.num_shards == 1:
            return [task.finished(0, progress, stage)]
        return self._in_turn(task, self._calibrated(task, execution, progress), progress)

    def _calibrated(self, task: ShardedTask, execution: Execution | None, progress: Progress) -> Any | None:
        """Compute the first product of all, unless an earlier attempt has.

        It decides how the products of all shards run, on which their roundings depend.

        Args:
            task: The steps to take.
            execution: The way in which products are executed; None: nothing is decided for all shards.
            progress: Called once.

        Returns:
            State of the first shard after that product; None if an earlier attempt has computed it.
        """
        if execution is None or CALIBRATED in self._job.notes:
            return None
        begun = task.first_step()
        execution.settle()
        progress(task.phase, task.num_done(0, begun), task.total)
        self._job.notes[CALIBRATED] = True
        return begun

    def _in_turn(self, task: ShardedTask, begun: Any | None, progress: Progress) -> list[Any]:
        states: list[Any] = []
        for index in range(task.num_shards):
            stage = self._job.stage(f"{STAGE} {index}")
            if stage.value is None:
                stage.begin_with(begun)
                before = sum(task.num_done(done, state) for done, state in enumerate(states))
                stage.finish(task.finished(index, _after(before, task, progress), stage))
            begun = None
            task.observe(index, stage.value)
            states.append(stage.value)
        return states


def _after(before: int, task: ShardedTask, progress: Progress) -> Progress:
    """Return a callback that adds what earlier shards have done, `before`, to the progress of one shard."""

    def report(phase: str, done: int, total: int) -> None:
        if phase == task.phase:
            progress(phase, before + done, task.total)
        else:
            progress(phase, done, total)

    return report


@dataclass(frozen=True)
class ShardResult:
    """The result of computing a shard."""

    state: Any  # finished
    workers: set[str]  # names of the processes that computed it
    is_saved: bool = True


@dataclass(frozen=True)
class Deployment:
    """The stores that workers share, and the device of this worker.

    Attributes:
        seconds: Time from one checkpoint to the next.
        fingerprint: Identifier of hardware and software, as `numerics_fingerprint` returns it.
        call: Wakes another worker for the shards of a job, if one is free.
    """

    shards: ShardStore
    checkpoints: CheckpointStore
    seconds: float
    device: torch.device
    fingerprint: str
    call: Callable[[str], None]

    def shard_checkpointer(self, job_id: str, index: int, *, attempt: int, shard_fingerprint: str) -> JobCheckpointer:
        """Return what is saved of one shard."""
        checkpoints = self.checkpoints.of_shard(job_id, index, attempt)
        fingerprint = f"{self.fingerprint}, {shard_fingerprint}"
        return JobCheckpointer.restored(checkpoints, self.seconds, device=self.device, fingerprint=fingerprint)

    def compute(
        self, task: ShardedTask, claim: Claim, *, job_id: str, begun: Any | None, progress: Progress
    ) -> ShardResult:
        """Compute a shard that was claimed, from where an earlier worker left it.

        Args:
            task: Method whose shard it is.
            claim: The shard.
            job_id: The job that the shard belongs to.
            begun: State to begin with where no worker left one.
            progress: Called with the products of the shard after every step.

        Returns:
            The finished state, and who computed it.

        Raises:
            WorkerStoppingError: If the worker was told to stop; the state is saved.
        """
        saved = self.shard_checkpointer(job_id, claim.index, attempt=claim.attempt, shard_fingerprint=claim.fingerprint)
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

    def fingerprint_of(self, task: ShardedTask, job: JobCheckpointer) -> str:
        """Return the digest of everything that the numbers of the shards depend on beside the request."""
        return shard_fingerprint(
            self.fingerprint,
            partition=task.partition,
            is_calibrated=CALIBRATED in job.notes,
            compiled=job.notes.get("compiled", {}),
            deviations=job.notes.get("precision_deviations"),
        )


class ShardCoordinator(LocalSharding):
    """Computes the shards of a job that this worker holds, in turn with other workers.

    Where others still compute when it finds nothing to do, it waits for them, or for their leases to lapse.

    Args:
        deployment: The stores that workers share.
        lease: Lease of the job.
        job: The job's checkpoints; `save` lets other workers read what they need.
    """

    def __init__(self, deployment: Deployment, lease: Lease, job: JobCheckpointer) -> None:
        super().__init__(job)
        self._deployment, self._shards, self._lease = deployment, deployment.shards, lease
        self._own_products: dict[int, int] = {}  # products of each shard that this worker computed
        self._stored_products: dict[int, int] = {}  # products of each shard according to Redis
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

    def states(self, task: ShardedTask, execution: Execution | None, *, progress: Progress, stage: Stage) -> list[Any]:
        """Compute shards together with others; a task of one shard, or one that cannot be shared, alone."""
        if task.num_shards == 1:
            return super().states(task, execution, progress=progress, stage=stage)
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

    def _results(self, task: ShardedTask, begun: Any | None, progress: Progress) -> dict[int, ShardResult]:
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
                self._collect(results, task, fingerprint, among=self._shards.done(lease.job_id))
                result = deployment.compute(task, claim, job_id=lease.job_id, begun=first, progress=report)
                results[claim.index] = result
                task.observe(claim.index, result.state)
                num_products = task.num_done(claim.index, result.state)
                claim = self._shards.finish(lease, claim.index, num_products, go_on=True)
            elif len(self._shards.done(lease.job_id)) < task.num_shards:
                self._report(task, progress)
                time.sleep(SECONDS_BETWEEN_CHECKS)
                claim = claimed()
            else:
                self._collect(results, task, fingerprint, among=range(task.num_shards))
                claim = claimed()
        return results

    def _collect(
        self, results: dict[int, ShardResult], task: ShardedTask, fingerprint: str, *, among: Iterable[int]
    ) -> None:
        """Read what others have computed; what of that is lost is to be computed again."""
        for index in set(among) - results.keys():
            saved = self._deployment.shard_checkpointer(
                self._lease.job_id, index, attempt=0, shard_fingerprint=fingerprint
            )
            state = saved.stage(STAGE).value
            if state is None:
                self._shards.reopen(self._lease, index)
            else:
                results[index] = ShardResult(state, set(saved.notes["workers"]))
                task.observe(index, state)

    def _reporting(self, index: int, task: ShardedTask, progress: Progress) -> Progress:
        """Return a callback that reports the progress of a shard as progress of all shards."""

        def report(phase: str, done: int, total: int) -> None:
            if phase == task.phase:
                self._own_products[index] = done
                self._report(task, progress)
            else:
                progress(phase, done, total)

        return report

    def _report(self, task: ShardedTask, progress: Progress) -> None:
        if self._problem is not None:
            raise JobFailure(FailureKind.FATAL, self._problem)
        # a shard that lost its worker continues from its checkpoint: what was reported is not taken back
        self._num_reported = max(self._num_reported, sum((self._stored_products | self._own_products).values()))
        progress(task.phase, self._num_reported, task.total)
        self._job.save_if_due()


class NoShardsLeftError(Exception):
    """Raised after a shard worker has computed all shards that it could; the coordinator makes the spectrum."""


class ShardLostError(Exception):
    """Raised if the result of a shard could not be saved, or if data that it depends on are missing."""


class ShardWorker:
    """Computes shards of a job that another worker holds.

    Args:
        deployment: The stores that workers share.
        lease: Lease of the shards.
        claim: The first shard.
        fingerprint: Identifier of hardware and software, as the checkpoints of jobs have it.
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

    def renew(
        self, lease: Lease, progress: JobProgress | None, num_products: int = 0, interim_digest: str = ""
    ) -> JobState:
        """Renew the lease for a `LeaseRenewer`; a worker that lost it stops as if the job was cancelled.

        Products are stored for this shard alone; the coordinator counts those of the job.

        Args:
            lease: The lease.
            progress: Not used.
            num_products: Not used.
            interim_digest: Not used.

        Returns:
            "running", or "cancelling" once the lease is lost.
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

    def states(self, task: ShardedTask, execution: Execution | None, *, progress: Progress, stage: Stage) -> NoReturn:
        """Compute free shards until there are none.

        Raises:
            NoShardsLeftError: At last.
            ShardLostError: If what is computed here does not fit what is computed there.
        """
        if self._deployment.fingerprint_of(task, self._job) != self._claim.fingerprint:
            raise ShardLostError("it is computed in another way there")
        claim: Claim | None = self._claim
        while claim is not None:
            job_id, report = self._lease.job_id, self._reporting(claim.index, task.phase, progress)
            result = self._deployment.compute(task, claim, job_id=job_id, begun=None, progress=report)
            if not result.is_saved:
                raise ShardLostError(f"shard {claim.index} of job {job_id} could not be saved")
            waiting = self._has_other_work()
            num_products = task.num_done(claim.index, result.state)
            claim = self._deployment.shards.finish(self._lease, claim.index, num_products, go_on=not waiting)
            if waiting:
                self._deployment.call(job_id)
        raise NoShardsLeftError

    def _reporting(self, index: int, counted: str, progress: Progress) -> Progress:
        def report(phase: str, done: int, total: int) -> None:
            self._products = (index, done) if phase == counted else None
            progress(phase, done, total)

        return report
