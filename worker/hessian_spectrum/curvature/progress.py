"""How a long computation reports its progress, and how its state is saved and restored."""

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """Called after every step of a computation; an exception raised here ends it and reaches its caller."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note that `done` of `total` units of `phase` are finished."""


class Checkpointer(Protocol):
    """Saves the states of one computation, and restores the last one in a later process."""

    def restore(self) -> Any | None:
        """Return the state that an earlier process saved, or None if the computation begins."""

    def update(self, snapshot: Callable[[], Any]) -> None:
        """Announce a new state.

        Args:
            snapshot: Returns the state to save. It may be called now, or at any later moment before `seal`.
        """

    def seal(self) -> None:
        """Announce that the result is about to consume the state: the state that was last saved stays saved."""


class _NoCheckpoints:
    def restore(self) -> None:
        return None

    def update(self, snapshot: Callable[[], Any]) -> None:
        pass

    def seal(self) -> None:
        pass


NO_CHECKPOINTS: Checkpointer = _NoCheckpoints()
"""Saves nothing and restores nothing: the default."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Take no note: the default."""
