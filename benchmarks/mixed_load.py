"""`python -m benchmarks.mixed_load`: closed forms at 80 % of what the server can take, while jobs are always queued.

Then for shorter times at less than that, and without jobs.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_speed import SLOW, CpuSpeed, CpuSpeedWatch
from benchmarks.environment import server_environment, server_line
from benchmarks.job_stream import JobStream
from benchmarks.load import request_bytes, requests_per_second
from benchmarks.memory_watch import MemoryWatch
from benchmarks.mixed_load_plot import draw
from benchmarks.open_loop_load import Answers, offer
from benchmarks.stack import RunningStack

RESULTS = Path(__file__).parent / "results"
LOAD_SHARE = 0.8
CAPACITY_SECONDS, PAUSE_SECONDS = 60.0, 5.0
LESSER_SHARES = (0.5, 0.65)
SHORT = 0.05
"""Of the minutes: how long each of the shorter loads lasts."""

MAX_P99_SECONDS, MAX_DRIFT = 0.05, 0.05
WHEN = ("while capacity was measured", "under the load", "without jobs")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}
BODY: dict[str, Any] = {
    "model": {"kind": "linear", "w": [round(0.1 * i - 0.4, 1) for i in range(10)], "v": [0.5, -0.25] * 5},
    "data": {"x": [round(0.1 * i - 2.5, 1) for i in range(50)], "y": [round(0.02 * i, 2) for i in range(50)]},
}


@dataclass(kw_only=True)
class Measured:
    """Measurements of callers, jobs and processes during a load.

    Attributes:
        capacity: Requests per second that the service answers at most.
        tried: Begin and end of the measurement of the capacity, by `time.perf_counter`.
        answers: Answers during the load.
        lesser: Answers to lighter loads afterwards, by their share of the capacity.
        alone: Answers to the same load without jobs.
        jobs: Jobs that ran beside the load.
        num_jobs: Number of jobs that ended during the load.
        memory: Memory of the processes.
        speed: Speed of the machine all the time.
    """

    capacity: float
    tried: tuple[float, float]
    answers: Answers
    lesser: dict[float, Answers]
    alone: Answers
    jobs: JobStream
    num_jobs: int
    memory: MemoryWatch
    speed: CpuSpeed

    def speed_during(self, answers: Answers) -> CpuSpeed:
        """Of the machine from the first request on until a little after the last one was due."""
        return self.speed.between(answers.started, answers.started + answers.due[-1] + PAUSE_SECONDS)

    def ideal_seconds(self, answers: Answers) -> NDArray[np.float64]:
        """What the same callers wait for a server of this capacity that needs the same for each request."""
        work = self.speed.between(*self.tried).mean / self.capacity
        return self.speed_during(answers).ideal_seconds(answers.started + answers.due, work)


def measured(directory: Path, minutes: float, num_workers: int, *, seed: int) -> Measured:
    """The load of so many minutes on a stack of its own, then the shorter ones."""
    body = json.dumps(BODY).encode()
    with RunningStack(directory / "data", num_workers) as stack, CpuSpeedWatch() as watch:
        with JobStream(stack.url) as jobs:
            jobs.wait_for_first()
            began = time.perf_counter()
            capacity = requests_per_second(stack.port, "/v1/closed-form", body, seconds=CAPACITY_SECONDS)
            tried = (began, time.perf_counter())
            time.sleep(PAUSE_SECONDS)
            message = b"".join(request_bytes("/v1/closed-form", body, "application/json"))
            load = partial(offer, stack.port, message)
            with MemoryWatch(stack) as memory:
                done_before = jobs.num_done
                answers = load(LOAD_SHARE * capacity, seconds=60 * minutes, seed=seed)
                num_jobs = jobs.num_done - done_before
            seconds = 60 * minutes * SHORT
            lesser = {share: load(share * capacity, seconds=seconds, seed=seed) for share in LESSER_SHARES}
        alone = load(LOAD_SHARE * capacity, seconds=seconds, seed=seed)
        time.sleep(PAUSE_SECONDS)
    return Measured(
        capacity=capacity,
        tried=tried,
        answers=answers,
        lesser=lesser,
        alone=alone,
        jobs=jobs,
        num_jobs=num_jobs,
        memory=memory,
        speed=watch.speed,
    )


def report(found: Measured, minutes: float, num_workers: int, *, seed: int) -> dict[str, Any]:
    """As JSON."""
    return {
        "host": server_environment(),
        "minutes": minutes,
        "num_workers": num_workers,
        "seed": seed,
        "capacity_per_second": found.capacity,
        "offered_per_second": len(found.answers.seconds) / (60 * minutes),
        "num_requests": len(found.answers.seconds),
        "num_errors": sum(each.num_errors for each in (found.answers, found.alone, *found.lesser.values())),
        "seconds": quantiles(found.answers.seconds),
        "seconds_at_shares": {f"{share:.0%}": quantiles(each.seconds) for share, each in found.lesser.items()},
        "seconds_alone": quantiles(found.alone.seconds),
        "seconds_ideal": quantiles(found.ideal_seconds(found.answers)),
        "seconds_ideal_alone": quantiles(found.ideal_seconds(found.alone)),
        "speed": {
            when: {"mean": speed.mean, "slow_share": speed.slow_share}
            for when, speed in zip(
                WHEN,
                (found.speed.between(*found.tried), found.speed_during(found.answers), found.speed_during(found.alone)),
                strict=True,
            )
        },
        "num_jobs": found.num_jobs,
        "num_jobs_failed": len(found.jobs.faults),
        "faults": found.jobs.faults[:10],
        "memory": found.memory.summary(),
    }


def quantiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Exact ones, of values that were measured."""
    return {name: float(np.quantile(seconds, share, method="higher")) for name, share in QUANTILES.items()}


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    drift = max((abs(each["drift"]) for each in report["memory"].values()), default=0.0)
    is_fast, is_flat = report["seconds"]["p99"] < MAX_P99_SECONDS, drift <= MAX_DRIFT
    lines = [
        "# Closed forms while jobs run",
        "",
        server_line(report["host"]),
        "",
        f"{report['minutes']:g} minutes, {report['num_workers']} workers; the clients run on the same cores.",
        "",
        "| | | goal |",
        "|---|---|---|",
        f"| capacity while jobs run | {report['capacity_per_second']:.0f} closed forms / s | |",
        f"| offered | {report['offered_per_second']:.0f} / s, {report['num_requests']:,} in all, at random times | "
        f"{LOAD_SHARE:.0%} of capacity |",
        f"| latency, from the time at which each was due | {_latencies(report['seconds'])} | p99 under "
        f"{1e3 * MAX_P99_SECONDS:.0f} ms: {_word(is_fast)} |",
        *(
            f"| {share} of capacity, for {60 * report['minutes'] * SHORT:.0f} s | {_latencies(seconds)} | |"
            for share, seconds in report["seconds_at_shares"].items()
        ),
        f"| the same clients, without jobs | {_latencies(report['seconds_alone'])} | |",
        *(f"| speed of the machine {when} | {_speed(report['speed'][when])} | |" for when in WHEN),
        f"| an ideal server of this capacity at this speed | {_latencies(report['seconds_ideal'])} | |",
        f"| the same, without jobs | {_latencies(report['seconds_ideal_alone'])} | |",
        f"| errors | {report['num_errors']} | 0 |",
        f"| jobs done at the same time | {report['num_jobs']}, {report['num_jobs_failed']} failed | |",
        f"| memory, first against last quarter | at most {drift:.1%} apart | {MAX_DRIFT:.0%}: {_word(is_flat)} |",
        "",
        "| process | mean | drift | range |",
        "|---|---|---|---|",
        *(
            f"| {name} | {each['mean_bytes'] / 2**20:.0f} MiB | {each['drift']:+.1%} | {each['range']:.1%} |"
            for name, each in report["memory"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _latencies(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())


def _speed(speed: dict[str, float]) -> str:
    return f"{speed['mean']:.2f} of the usual, below {SLOW:g} for {speed['slow_share']:.1%} of the time"


def _word(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def main() -> None:
    """Measure, print, and with --save keep numbers and picture beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=1, help="number of jobs at the same time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times at which requests are due")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/mixed_load.json, .md and .png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spectrum-load-") as directory:
        found = measured(Path(directory), arguments.minutes, arguments.workers, seed=arguments.seed)
    told = report(found, arguments.minutes, arguments.workers, seed=arguments.seed)
    if arguments.save:
        (RESULTS / "mixed_load.json").write_text(json.dumps(told, indent=1) + "\n")
        (RESULTS / "mixed_load.md").write_text(table(told))
        draw(found.answers, found.speed_during(found.answers), found.memory, path=RESULTS / "mixed_load.png")
    print(table(told), end="")


if __name__ == "__main__":
    main()
