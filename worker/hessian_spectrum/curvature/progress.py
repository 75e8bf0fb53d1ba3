"""How a long computation reports its progress, and how its state is saved and restored."""

from collections.abc import Callable
from typing import Any, Protocol


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
