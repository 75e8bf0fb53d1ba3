"""How a long computation tells its caller where it is."""

from typing import Protocol


class Progress(Protocol):
    """Called after every unit of work; an exception raised here ends the computation and reaches its caller."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note that `done` of `total` units of `phase` are finished."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Take no note: the default."""
