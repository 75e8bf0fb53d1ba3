"""Times of calls that alternate, so that whatever else runs on the machine disturbs all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# "cpu" is the processor time of all threads: with one thread, other processes hardly change it.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Stopwatch:
    """Seconds that a call takes; on a GPU until it has finished there.

    Raises:
        ValueError: For the processor's time of what a GPU does.
    """

    def __init__(self, device: torch.device, clock: str = "wall") -> None:
        if device.type != "cpu" and clock != "wall":
            raise ValueError("a GPU's work takes no processor time: --clock wall")
        self._device = device
        self._now = CLOCKS[clock]

    def seconds(self, call: Callable[[], Any]) -> float:
        """Of one call, whose result is dropped."""
        self._synchronise()
        started = self._now()
        call()
        self._synchronise()
        return self._now() - started

    def interleaved(self, calls: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, list[float]]:
        """Seconds of each call in each round; a round calls each once, every other one in reverse order."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for index in range(num_rounds):
            for name in list(calls)[:: -1 if index % 2 else 1]:
                times[name].append(self.seconds(calls[name]))
        return times

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
