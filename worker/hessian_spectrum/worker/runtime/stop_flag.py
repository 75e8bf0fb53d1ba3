"""A flag by which a worker tells the processes of its pool to stop."""

import mmap
import time

_SECONDS_BETWEEN_LOOKS = 0.05


class StopFlag:
    """A flag that a process shares with those that it forks.

    It is one byte of shared memory. The events of `multiprocessing` hold a lock while they look, and a process that is
    killed in that moment leaves it locked: every process that looked afterwards would wait for ever.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Tell all processes to stop."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Return whether the processes were told to stop."""
        return self._byte[0] == 1

    def wait(self, seconds: float) -> None:
        """Wait until the flag is set, but no longer than so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.is_set() and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
