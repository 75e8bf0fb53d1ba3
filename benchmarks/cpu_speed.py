"""How fast the machine itself is, from moment to moment: a virtual one has a host, which may have other plans."""

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

SECONDS_BETWEEN = 0.01
SLOW = 0.5
"""Of the usual speed: below it a moment counts as slow."""

MOST_SPEED = 3.0
_NUM_TURNS = 1500
_SECONDS_TO_BEGIN, _SECONDS_TO_END = 30.0, 30.0


@dataclass(frozen=True)
class CpuSpeed:
    """What the machine could have done.

    Attributes:  edges (n + 1) of times, by `time.perf_counter`, which processes share; speed (n) in between, the mean
        of all cores, each of which has 1 in the median of the whole watch.
    """

    edges: NDArray[np.float64]
    speed: NDArray[np.float64]

    def between(self, begin: float, end: float) -> "CpuSpeed":
        """The same from then to then."""
        first, last = np.searchsorted(self.edges, (begin, end))
        return CpuSpeed(self.edges[first : last + 1], self.speed[first:last])

    @property
    def mean(self) -> float:
        """Over its time."""
        return float(self.speed.mean())

    @property
    def slow_share(self) -> float:
        """Of its time."""
        return float(np.mean(self.speed < SLOW))

    def ideal_seconds(self, due: NDArray[np.float64], work: float) -> NDArray[np.float64]:
        r"""What requests wait for an ideal server, which takes `work` seconds at speed 1 for each, one after the other.

        With $W(t)$ the integral of the speed, request $i$ is done where
        $W(t_i) = \max_{j \le i} (W(\mathrm{due}_j) + (i - j + 1)\, \mathrm{work})$.
        """
        done = np.concatenate(([0.0], np.cumsum(self.speed * np.diff(self.edges))))
        orders = np.arange(len(due))
        finished = np.maximum.accumulate(np.interp(due, self.edges, done) - orders * work) + (orders + 1) * work
        after = self.edges[-1] + (finished - done[-1])  # the watch is over: at speed 1
        times: NDArray[np.float64] = np.where(finished < done[-1], np.interp(finished, done, self.edges), after)
        return times - due


class CpuSpeedWatch:
    """Inside a `with`, a process on each core runs an empty loop every 10 ms, for half a percent of the core.

    What counts is the core's time that the loop took, so that others who want the core make no difference, and the time
    that the host took of the core by Linux' account. The host may also slow a core down without any account.

    Attributes:  speed, once it is over.
    """

    def __init__(self) -> None:
        self.speed = CpuSpeed(np.zeros(1), np.zeros(0))
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for core in sorted(os.sched_getaffinity(0)):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            self._processes.append(context.Process(target=_watch, args=(core, theirs), daemon=True))

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            _receive(pipe, _SECONDS_TO_BEGIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        cores = [_receive(pipe, _SECONDS_TO_END) for pipe in self._pipes]
        for process in self._processes:
            process.join()
        begin, end = max(ends[0] for ends, _, _ in cores), min(ends[-1] for ends, _, _ in cores)
        edges = np.arange(begin, end, SECONDS_BETWEEN)
        speeds = [core_speed(edges, ends, costs, stolen=stolen) for ends, costs, stolen in cores]
        self.speed = CpuSpeed(edges, np.mean(speeds, axis=0))


def core_speed(
    edges: NDArray[np.float64], ends: NDArray[np.float64], costs: NDArray[np.float64], *, stolen: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The speed (n) of a core between edges (n + 1), from ends and costs of its loops and what the host took, in s."""
    usual = np.median(costs)
    # Linux takes what the host took off the loop's own time, and sometimes too much: such a loop says nothing.
    costs = np.where(costs < usual / MOST_SPEED, usual, costs)
    share_left = np.clip(1 - np.diff(stolen) / np.diff(ends), 0.0, 1.0)
    done = np.concatenate(([0.0], np.cumsum(usual / costs[1:] * share_left * np.diff(ends))))
    speed: NDArray[np.float64] = np.diff(np.interp(edges, ends, done)) / np.diff(edges)
    return speed


def _receive(pipe: Connection, seconds: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    if not pipe.poll(seconds):
        raise RuntimeError("a watch of the machine's speed does not answer")
    ends, costs, stolen = np.array(pipe.recv()).T
    return ends, costs, stolen


def _watch(core: int, pipe: Connection) -> None:
    os.sched_setaffinity(0, {core})
    samples = [_sample(core)]
    pipe.send(samples)
    while not pipe.poll(SECONDS_BETWEEN):
        samples.append(_sample(core))
    pipe.send(samples)


def _sample(core: int) -> tuple[float, float, float]:
    started = time.thread_time()
    for _ in range(_NUM_TURNS):
        pass
    return time.perf_counter(), time.thread_time() - started, _stolen_seconds(core)


def _stolen_seconds(core: int) -> float:
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")
