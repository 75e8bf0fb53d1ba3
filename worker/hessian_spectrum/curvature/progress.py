"""How a long computation reports its progress and resumes from an earlier state."""

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """Callback after every unit of work; an exception that it raises ends the computation and reaches the caller."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note that `done` of `total` units of `phase` are finished."""


class Continuation(Protocol):
    """The state from which a computation resumes, and the receiver of later states."""

    @property
    def state(self) -> Any | None:
        """State of an earlier run of the same computation; None starts from the beginning."""

    def offer(self, state: Callable[[], Any]) -> None:
        """Receive a callable that returns the present state, now or at any later moment."""


class _FromTheStart:
    state = None

    def offer(self, state: Callable[[], Any]) -> None:
        pass


FROM_THE_START = _FromTheStart()
"""Starts from the beginning and stores no states; this is the default."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Ignore the report; this is the default."""
