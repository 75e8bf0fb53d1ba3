"""Latencies of a mixed load, the speed of the machine and memory against time."""

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.cpu_speed import SLOW, CpuSpeed
from benchmarks.memory_watch import MemoryWatch
from benchmarks.open_loop_load import Answers

mpl.use("Agg")

from matplotlib import pyplot as plt

_NUM_WINDOWS = 120


def draw(answers: Answers, speed: CpuSpeed, memory: MemoryWatch, *, path: Path) -> None:
    """Write a PNG: quantiles of windows above, how fast the machine was in them, processes below."""
    figure, (above, middle, below) = plt.subplots(3, 1, sharex=True, figsize=(9, 8), layout="constrained")
    edges = np.linspace(0, answers.due[-1], _NUM_WINDOWS + 1)
    windows = np.searchsorted(answers.due, edges)
    parts = [answers.seconds[first:last] for first, last in itertools.pairwise(windows)]
    for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        values = [1e3 * np.quantile(part, share) if len(part) else np.nan for part in parts]
        above.step(edges[:-1] / 60, values, where="post", label=name)
    above.axhline(50, color="grey", linestyle=":", linewidth=1)
    above.set(yscale="log", ylabel="latency of closed forms (ms)")
    above.legend(loc="upper right")
    speeds = [speed.between(*window) for window in itertools.pairwise(answers.started + edges)]
    middle.step(edges[:-1] / 60, [each.mean for each in speeds], where="post", label="mean")
    middle.step(
        edges[:-1] / 60, [each.slow_share for each in speeds], where="post", label=f"share of time below {SLOW:g}"
    )
    middle.set(ylabel="speed of the machine", ylim=(0, None))
    middle.legend(loc="center right")
    for name, num_bytes in memory.num_bytes.items():
        below.plot(np.asarray(memory.times) / 60, np.asarray(num_bytes) / 2**20, label=name)
    below.set(yscale="log", xlabel="minutes", ylabel="memory (MiB)")
    below.legend(loc="center right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
