"""How a long computation tells its caller where it is, and goes on from where an earlier one was."""

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """Called after every unit of work; an exception raised here ends the computation and reaches its caller."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note that `done` of `total` units of `phase` are finished."""


class Continuation(Protocol):
    """Where a computation goes on from, and who keeps its states."""

    @property
    def state(self) -> Any | None:
        """Of the same computation, which then goes on from it; None: it begins."""

    def offer(self, state: Callable[[], Any]) -> None:
        """Hear how far the computation is; `state` may be asked for its state now or at any later moment."""


class _FromTheStart:
    state = None

    def offer(self, state: Callable[[], Any]) -> None:
        pass


FROM_THE_START = _FromTheStart()
"""Nothing was done before, and nobody keeps what is done: the default."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Take no note: the default."""
