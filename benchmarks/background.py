"""Tasks that run in the background of a measurement."""

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Background(ABC):
    """A thread inside a `with`: `run` must return soon after `closing` is set."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait until it has returned."""
        self.closing.set()
        self._thread.join()

    @abstractmethod
    def run(self) -> None:
        """The task."""
