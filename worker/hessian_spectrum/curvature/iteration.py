"""Computations that proceed step by step, and the one loop that runs them with progress and checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch

Problem = TypeVar("Problem")
State = TypeVar("State")
Result = TypeVar("Result")


class Progress(Protocol):
    """Callback after every step of a computation; an exception that it raises ends it and reaches the caller."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note that `done` of `total` units of `phase` are finished."""


class Checkpointer(Protocol):
    """Saves the states of one computation, and restores the last one in a later process."""

    def restore(self) -> Any | None:
        """Return the state that an earlier process saved, or None at the beginning of a computation."""

    def update(self, snapshot: Callable[[], Any]) -> None:
        """Announce a new state.

        Args:
            snapshot: Returns the state to save. It may be called immediately, or at any later moment before `seal`.
        """

    def seal(self) -> None:
        """Announce that the result is about to consume the state; the last saved state stays saved."""


class _NoCheckpoints:
    def restore(self) -> None:
        return None

    def update(self, snapshot: Callable[[], Any]) -> None:
        pass

    def seal(self) -> None:
        pass


NO_CHECKPOINTS: Checkpointer = _NoCheckpoints()
"""Saves and restores nothing; this is the default."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Ignore the report; this is the default."""


class Count(NamedTuple):
    """Progress of a computation, in the units of its phase."""

    done: int
    total: int


class Iteration(ABC, Generic[Problem, State, Result]):
    """A computation that may stop between any two steps and continue in another process.

    An iteration has settings only. Everything that changes from step to step is in its state, so that a saved state and
    the same settings give the same result to the last bit.

    Attributes:
        phase: Name of the steps in progress reports.
        result_phase: Name of the work after the last step, if it takes long enough to be reported.
    """

    phase: ClassVar[str]
    result_phase: ClassVar[str | None] = None

    @abstractmethod
    def init(self, problem: Problem, *, generator: torch.Generator) -> State:
        """Return the state before the first step.

        Args:
            problem: The problem to which the iteration is applied.
            generator: CPU generator of all random numbers, which advances.
        """

    @abstractmethod
    def is_finished(self, state: State) -> bool:
        """Return whether no further step remains."""

    @abstractmethod
    def step(self, problem: Problem, state: State) -> State:
        """Take one step from an unfinished state, which may be changed in place, and return the new state."""

    @abstractmethod
    def count(self, state: State) -> Count:
        """Return the number of finished units of work, and the largest possible number."""

    @abstractmethod
    def result(self, problem: Problem, state: State) -> Result:
        """Return the result of a finished state, which may be overwritten."""

    def save(self, state: State) -> Any:
        """Return the content of a checkpoint of the state, as values that `serialization` supports."""
        return state

    def load(self, problem: Problem, saved: Any) -> State:
        """Return the state from the content that `save` returned."""
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
        problem: The problem to which it is applied.
        generator: CPU generator of all random numbers; unused if a state is restored.
        progress: Called after every step; an exception that it raises ends the computation.
        checkpointer: Restores the first state and receives every later one.
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
    """Take all steps and return the result.

    Args:
        iteration: The computation.
        problem: The problem to which it is applied.
        generator: CPU generator of all random numbers; unused if a state is restored.
        progress: Called after every step; an exception that it raises ends the computation.
        checkpointer: Restores the first state and receives every later one.

    Returns:
        The result of the finished state.

    Example:
        >>> import torch
        >>> from hessian_spectrum.curvature.algorithms.exact import DenseEigensolver
        >>> from hessian_spectrum.curvature.linear_algebra import DenseOperator
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
