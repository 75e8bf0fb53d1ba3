"""A method's steps in shards, and one worker that takes them one after the other; most spectra are one shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.iteration import Checkpointer, Progress, last_state
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.worker.job_state import JobCheckpointer, Stage
from hessian_spectrum.worker.process import own_name

STAGE = "probes"
"""Name of the stage of a shard, in a job's own checkpoints or in those of the shard."""

CALIBRATED = "calibrated"
"""Note of a job whose products all run in the way that was chosen for the first one."""


@dataclass(frozen=True)
class ShardedMethod:
    """All steps of one spectrum.

    Attributes:
        new_generator: Returns the generator of the spectrum's random numbers, in its first state.
        partition: Sizes that decide which vectors are multiplied together, on which the numbers depend.
    """

    method: Method[Any, Any]
    num_shards: int
    operator: SymmetricOperator
    new_generator: Callable[[], torch.Generator]
    partition: tuple[int, ...]

    @cached_property
    def shards(self) -> Sequence[Method[Any, Any]]:
        """The method of each shard."""
        return self.method.split(self.num_shards)

    @property
    def num_products(self) -> int:
        """Products of all shards together."""
        return self.method.cost(self.operator.dim).num_products

    def num_done(self, index: int, state: Any) -> int:
        """Return the products of a shard that are accounted for in its state."""
        return self.shards[index].count(state).done

    def first_step(self) -> Any:
        """Return the state of the first shard after its first product."""
        shard = self.shards[0]
        return shard.step(self.operator, shard.init(self.operator, generator=self.new_generator()))

    def finished(self, index: int, progress: Progress, checkpointer: Checkpointer) -> Any:
        """Return the finished state of a shard, computed from where the checkpointer restores it."""
        return last_state(
            self.shards[index],
            self.operator,
            generator=self.new_generator(),
            progress=progress,
            checkpointer=checkpointer,
        )


class Sharding(Protocol):
    """Who computes the shards of a job."""

    workers: set[str]
    """Names of the processes that computed them."""

    def states(self, task: ShardedMethod, execution: Execution, progress: Progress, stage: Stage) -> list[Any]:
        """Return the finished states of all shards in their order; the same numbers whoever computed them.

        Args:
            task: The steps to take.
            execution: How products run.
            progress: Called after every step with the products of the whole task.
            stage: Of the spectrum; it holds the state of a task of one shard.
        """


class LocalSharding:
    """One worker computes all shards, and keeps their states among those of its job."""

    def __init__(self, job: JobCheckpointer) -> None:
        self._job, self.workers = job, {own_name()}

    def states(self, task: ShardedMethod, execution: Execution, progress: Progress, stage: Stage) -> list[Any]:
        """Compute one shard after the other."""
        if task.num_shards == 1:
            return [task.finished(0, progress, stage)]
        return self._in_turn(task, self._calibrated(task, execution, progress), progress)

    def _calibrated(self, task: ShardedMethod, execution: Execution, progress: Progress) -> Any | None:
        """State of the first shard after the first product of all; None if an earlier attempt has taken that.

        It decides how the products of all shards run, on which their roundings depend.
        """
        if CALIBRATED in self._job.notes:
            return None
        begun = task.first_step()
        execution.settle()
        progress("products", task.num_done(0, begun), task.num_products)
        self._job.notes[CALIBRATED] = True
        return begun

    def _in_turn(self, task: ShardedMethod, begun: Any | None, progress: Progress) -> list[Any]:
        states: list[Any] = []
        for index in range(task.num_shards):
            stage = self._job.stage(f"{STAGE} {index}")
            if stage.value is None:
                stage.begin_with(begun)
                before = sum(task.num_done(done, state) for done, state in enumerate(states))
                stage.finish(task.finished(index, _after(before, task, progress), stage))
            begun = None
            states.append(stage.value)
        return states


def _after(before: int, task: ShardedMethod, progress: Progress) -> Progress:
    """Progress of a shard as that of all, of which so many products were done before."""

    def report(phase: str, done: int, total: int) -> None:
        if phase == "products":
            progress(phase, before + done, task.num_products)
        else:
            progress(phase, done, total)

    return report
