"""`python -m benchmarks.tracking`: what a training loop pays for being tracked, beside one that calls torch.save.

Rounds of a few steps alternate between the ways, so that whatever else runs on the machine disturbs all of them.
Between rounds, everything is written and sent. The server is real, but its worker is stopped while times are taken:
what it computes would compete for the cores.
"""

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import truediv
from os import kill
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.environment import engine_environment, engine_line
from benchmarks.reports import RESULTS
from benchmarks.stack import RunningStack
from benchmarks.timing import Stopwatch
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.tracking import sending_thread
from hessian_spectrum.client.tracking.tracker import Tracker

WIDTHS = (256, 1024, 2048)
NUM_INPUTS, NUM_CLASSES, BATCH_SIZE = 784, 10, 64
NUM_STEPS, EVERY = 50, 10
ROUNDS = 12
DISK_BYTES = 2**30
NOWHERE = "http://127.0.0.1:1"

RECORDING = ("tracked", "away", "saved")
WAYS = ("alone", *RECORDING)
"""The loop alone, tracked, tracked while the server is away, and with torch.save at the same steps."""


@dataclass(frozen=True)
class Loop:
    """Training of a network with three layers by SGD with momentum."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of_width(cls, width: int) -> "Loop":
        """With random samples."""
        torch.manual_seed(0)
        layers = (nn.Linear(NUM_INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        network = nn.Sequential(*layers, nn.Linear(width, NUM_CLASSES))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        x, y = torch.randn(BATCH_SIZE, NUM_INPUTS), torch.randint(NUM_CLASSES, (BATCH_SIZE,))
        return cls(network, optimizer, x, y)

    def run(self, record: Callable[[], None]) -> None:
        """Some steps, each of which calls `record` first."""
        for _ in range(NUM_STEPS):
            record()
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.network(self.x), self.y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class Saving:
    """torch.save at every so many steps, to a file that replaces the one before."""

    def __init__(self, network: nn.Module, path: Path, every: int) -> None:
        self._network, self._path, self._every, self._num_calls = network, path, every, 0

    def step(self) -> None:
        """Record the parameters."""
        if self._num_calls % self._every == 0:
            torch.save(self._network.state_dict(), self._path)
        self._num_calls += 1


def settle(tracker: Tracker, *, is_away: bool) -> None:
    """Wait until nothing happens in the background."""
    tracker._copies.join()
    while not is_away and tracker._spool.num_points:
        time.sleep(0.02)


def measure(width: int, num_rounds: int, url: str) -> dict[str, Any]:
    """Seconds of each way in each round, and those of a single recorded step."""
    loop, stopwatch = Loop.of_width(width), Stopwatch(torch.device("cpu"))
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    processor: dict[str, list[float]] = {way: [] for way in WAYS}
    singles: dict[str, list[float]] = {name: [] for name in ("copy", "tracked", "saved")}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trackers = {
            way: stack.enter_context(tracking(loop, directory / way, address, every))
            for way, address, every in (("tracked", url, EVERY), ("away", NOWHERE, EVERY), ("single", url, 1))
        }
        records: dict[str, Callable[[], None]] = {"alone": lambda: None} | {way: trackers[way].step for way in trackers}
        records["saved"] = Saving(loop.network, directory / "saved.pt", EVERY).step
        save = Saving(loop.network, directory / "single.pt", 1).step
        for index in range(num_rounds + 1):  # the first one is a warm-up
            for way in WAYS[:: -1 if index % 2 else 1]:
                started = time.process_time()
                wall[way].append(stopwatch.seconds(partial(loop.run, records[way])))
                processor[way].append(time.process_time() - started)
                if way in trackers:
                    settle(trackers[way], is_away=way == "away")
            for name, call in (("copy", copying(loop)), ("tracked", trackers["single"].step), ("saved", save)):
                singles[name].append(stopwatch.seconds(call))
            settle(trackers["single"], is_away=False)
    rounds = {way: values[1:] for way, values in wall.items()}
    return {
        "width": width,
        "num_bytes": sum(4 * each.numel() for each in loop.network.parameters()),
        "step_milliseconds": 1e3 * median(rounds["alone"]) / NUM_STEPS,
        "overhead_percent": {
            way: {"wall": overhead(wall, way), "processor": overhead(processor, way)} for way in RECORDING
        },
        "recorded_step_milliseconds": {name: 1e3 * median(values[1:]) for name, values in singles.items()},
        "rounds": rounds,
    }


def overhead(times: dict[str, list[float]], way: str) -> float:
    """In percent of the loop alone: the median of the ratios within a round, without the warm-up."""
    ratio: float = median(map(truediv, times[way][1:], times["alone"][1:]))
    return 100 * (ratio - 1)


@contextmanager
def tracking(loop: Loop, directory: Path, url: str, every: int) -> Iterator[Tracker]:
    """A tracker that leaves at the end what it has not sent."""
    with SpectrumClient(url) as client:
        data = (loop.x, loop.y)
        tracker = client.track(
            loop.network, loss="cross-entropy", data=data, every=every, directory=directory, disk_bytes=DISK_BYTES
        )
        try:
            yield tracker
        finally:
            tracker.close(wait=0.0)


def copying(loop: Loop) -> Callable[[], Any]:
    """A copy of the parameters into memory that is there."""
    sources = [each.detach() for each in loop.network.parameters()]
    copies = [each.clone() for each in sources]
    return lambda: [copy.copy_(source) for copy, source in zip(copies, sources, strict=True)]


@contextmanager
def stopped_workers(stack: RunningStack) -> Iterator[None]:
    """Workers compute nothing meanwhile."""
    workers = stack.pids("hessian_spectrum.worker")
    for pid in workers:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            kill(pid, signal.SIGCONT)


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "# What tracking costs a training loop",
        "",
        f"{engine_line(report)} {NUM_STEPS} steps a round, {report['num_rounds']} rounds; every {EVERY}th step is "
        "recorded. Medians of the ratios of times within a round; in brackets, of processor times of all threads, also "
        "those in the background. The server is on the same machine and needs its cores, too.",
        "",
        "| parameters | a step takes | tracked | tracked, the server away | torch.save at the same steps |",
        "|---|---|---|---|---|",
    ]
    for each in report["sizes"]:
        percent = each["overhead_percent"]
        cells = " | ".join(f"{percent[way]['wall']:+.1f} % ({percent[way]['processor']:+.1f} %)" for way in RECORDING)
        lines.append(f"| {each['num_bytes'] / 1e6:.1f} MB | {each['step_milliseconds']:.2f} ms | {cells} |")
    lines += ["", "| parameters | copying them | a recorded step | torch.save |", "|---|---|---|---|"]
    for each in report["sizes"]:
        single = each["recorded_step_milliseconds"]
        cells = " | ".join(f"{single[name]:.2f} ms" for name in ("copy", "tracked", "saved"))
        lines.append(f"| {each['num_bytes'] / 1e6:.1f} MB | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="number of rounds; the medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/tracking.json and .md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sending_thread.GATHERING_SECONDS = 0.05  # everything is sent while the loop runs
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-tracking-") as directory,
        RunningStack(Path(directory) / "data", 1) as stack,
        stopped_workers(stack),
    ):
        sizes = [measure(width, arguments.rounds, stack.url) for width in WIDTHS]
    report = {**engine_environment(torch.device("cpu"), "wall"), "num_rounds": arguments.rounds, "sizes": sizes}
    if arguments.save:
        (RESULTS / "tracking.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "tracking.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
