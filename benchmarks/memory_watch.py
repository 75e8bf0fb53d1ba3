"""What the processes of a stack hold in memory, over time."""

import time
from typing import Any

import numpy as np

from benchmarks.background import Background
from benchmarks.processes import command_line, resident_bytes
from benchmarks.stack import RunningStack

_SECONDS_BETWEEN = 2.0
WARM_UP_SHARE = 0.2
"""Of the time, which does not count: caches fill."""


class MemoryWatch(Background):
    """Looks again and again; a process is named by what it runs and, where there are several, by its order.

    Attributes:  times, in seconds from the beginning; num_bytes by process, each as long as times (0: not there).
    """

    def __init__(self, stack: RunningStack) -> None:
        super().__init__()
        self._stack = stack
        self.times: list[float] = []
        self.num_bytes: dict[str, list[int]] = {}

    def summary(self) -> dict[str, Any]:
        """By process: mean, how far its last quarter is above its first, and the range, as shares of the mean."""
        found: dict[str, Any] = {}
        for name, values in self.num_bytes.items():
            after = np.asarray(values[round(WARM_UP_SHARE * len(values)) :], np.float64)
            if not len(after) or not after.mean():
                continue
            quarter, mean = max(1, len(after) // 4), after.mean()
            found[name] = {
                "mean_bytes": float(mean),
                "drift": float((after[-quarter:].mean() - after[:quarter].mean()) / mean),
                "range": float((after.max() - after.min()) / mean),
            }
        return found

    def run(self) -> None:
        """Until told to stop."""
        started = time.monotonic()
        while not self.closing.wait(_SECONDS_BETWEEN):
            self.times.append(time.monotonic() - started)
            for name, pid in self._named().items():
                values = self.num_bytes.setdefault(name, [0] * (len(self.times) - 1))
                values.append(resident_bytes(pid))
            for values in self.num_bytes.values():
                values.extend([0] * (len(self.times) - len(values)))

    def _named(self) -> dict[str, int]:
        found = {"launcher": self._stack.pid}
        for pid in self._stack.pids():
            words = command_line(pid)
            role = next((role for role in ("service", "worker") if f"-m {role}" in words), "Redis")
            count = sum(1 for name in found if name.startswith(role))
            found[f"{role} {count}" if count else role] = pid
        return found
