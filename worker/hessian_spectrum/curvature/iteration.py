"""Computations that proceed step by step, and the one loop that runs them with progress and checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch

from hessian_spectrum.curvature.progress import NO_CHECKPOINTS, Checkpointer, Progress, ignore_progress

Problem = TypeVar("Problem")
State = TypeVar("State")
Result = TypeVar("Result")


class Count(NamedTuple):
    """How far a computation is, in the units of its phase."""

    done: int
    total: int


class Iteration(ABC, Generic[Problem, State, Result]):
    """A computation that may stop between any two steps and continue in another process.

    An iteration holds settings alone. Everything that changes from step to step is in its state, so that a saved state
    and the same settings give the same result to the last bit.

    Attributes:
        phase: Name of the steps in progress reports.
        result_phase: Name of the work after the last step, where it takes long enough to be reported.
    """

    phase: ClassVar[str]
    result_phase: ClassVar[str | None] = None

    @abstractmethod
    def init(self, problem: Problem, *, generator: torch.Generator) -> State:
        """Return the state before the first step.

        Args:
            problem: What is computed with.
            generator: Source of all random numbers, on the CPU; it moves on.
        """

    @abstractmethod
    def is_finished(self, state: State) -> bool:
        """Return whether there is no further step to take."""

    @abstractmethod
    def step(self, problem: Problem, state: State) -> State:
        """Take one step from an unfinished state, which may be changed in place, and return the new state."""

    @abstractmethod
    def count(self, state: State) -> Count:
        """Return how many units of work are done, and how many there are at most."""

    @abstractmethod
    def result(self, problem: Problem, state: State) -> Result:
        """Return what a finished state says; the state may be overwritten."""

    def save(self, state: State) -> Any:
        """Return what a checkpoint holds of the state: values that `serialization` knows."""
        return state

    def load(self, problem: Problem, saved: Any) -> State:
        """Return the state that `save` was given."""
        state: State = saved
        return state


def iterates(
    iteration: Iteration[Problem, State, Result],
    problem: Problem,
    *,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
) -> Iterator[State]:
    """Yield the first state, new or restored, and the state after every step, down to the finished one.

    Args:
        iteration: The computation.
        problem: What is computed with.
        generator: Source of all random numbers, on the CPU; unused where a state is restored.
        progress: Called after every step; what it raises ends the computation.
        checkpointer: Restores the first state and is told of every later one.
    """
    saved = checkpointer.restore()
    state = iteration.init(problem, generator=generator) if saved is None else iteration.load(problem, saved)
    yield state
    while not iteration.is_finished(state):
        state = iteration.step(problem, state)
        progress(iteration.phase, *iteration.count(state))
        checkpointer.update(partial(iteration.save, state))
        yield state


def last_state(
    iteration: Iteration[Problem, State, Result],
    problem: Problem,
    *,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
) -> State:
    """Return the finished state; arguments as of `iterates`."""
    for state in iterates(iteration, problem, generator=generator, progress=progress, checkpointer=checkpointer):
        if iteration.is_finished(state):
            return state
    raise AssertionError("iterates ends with a finished state")


def run(
    iteration: Iteration[Problem, State, Result],
    problem: Problem,
    *,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
) -> Result:
    """Take all steps and return the result; arguments as of `iterates`.

    Example:
        >>> import torch
        >>> from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
        >>> from hessian_spectrum.curvature.operators.dense import DenseOperator
        >>> matrix = DenseOperator(torch.diag(torch.tensor([2.0, 1.0])))
        >>> run(DenseEigensolver(), matrix, generator=torch.Generator()).eigenvalues.tolist()
        [1.0, 2.0]
    """
    state = last_state(iteration, problem, generator=generator, progress=progress, checkpointer=checkpointer)
    return finish(iteration, problem, state, progress=progress, checkpointer=checkpointer)


def finish(
    iteration: Iteration[Problem, State, Result],
    problem: Problem,
    state: State,
    *,
    progress: Progress = ignore_progress,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
) -> Result:
    """Return the result of a finished state, which may be overwritten; arguments as of `iterates`."""
    checkpointer.seal()
    result = iteration.result(problem, state)
    if iteration.result_phase is not None:
        progress(iteration.result_phase, 1, 1)
    return result
