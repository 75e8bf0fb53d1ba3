"""`python -m benchmarks.fairness`: how long others wait while one key sends 45 expensive requests at once."""

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.environment import server_environment, server_line
from benchmarks.expensive_requests import ExpensiveRequests, Request, prepared
from benchmarks.stack import RunningStack
from hessian_spectrum.service.auth import KeyStore

RESULTS = Path(__file__).parent / "results"
NUM_AT_ONCE = 45
MAX_SECONDS = 1.0
LEAST_SECONDS_OF_A_LOAD = 5.0
"""One that is answered sooner is asked for again."""
MOST_SECONDS_OF_A_LOAD, MOST_SECONDS_OF_AN_ANSWER = 60.0, 60.0
PAUSE_SECONDS = 0.05


@dataclass
class Waits:
    """Seconds that each answer took, by the name of what was asked, and how the expensive ones were answered."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    load_seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The longest and the median of each, and the statuses."""
        waits = {
            name: {"longest": max(each), "median": float(np.median(each)), "num": len(each)}
            for name, each in self.seconds.items()
        }
        return {"waits": waits, "statuses": dict(self.statuses), "load_seconds": self.load_seconds}


def watched(
    url: str, greedy: str, expensive: Callable[[int], Request], *, cheap: dict[str, Request], other: str
) -> Waits:
    """Send the expensive request many times at once, and meanwhile the cheap ones, one after the other."""
    found, ended = Waits(), threading.Event()
    with _callers(url, greedy, expensive, statuses=found.statuses) as threads:
        watcher = threading.Thread(target=partial(_watch, url, other, cheap, found=found, ended=ended))
        watcher.start()
        began = time.monotonic()
        for thread in threads:
            thread.join(max(0.0, began + MOST_SECONDS_OF_A_LOAD - time.monotonic()))
        found.load_seconds = time.monotonic() - began
        ended.set()
        watcher.join()
    return found


@contextmanager
def _callers(url: str, key: str, expensive: Callable[[int], Request], *, statuses: Counter[str]) -> Iterator[list[Any]]:
    """They go away at the end, answered or not."""
    clients = [_client(url, key) for _ in range(NUM_AT_ONCE)]

    def ask(number: int) -> None:
        request, began = expensive(number), time.monotonic()
        while time.monotonic() < began + LEAST_SECONDS_OF_A_LOAD:
            try:
                statuses[str(clients[number].request(request.method, request.path, **request.options).status_code)] += 1
            except (httpx.HTTPError, OSError, RuntimeError):
                statuses["given up"] += 1

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(NUM_AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for client in clients:
            client.close()


def _watch(url: str, key: str, cheap: dict[str, Request], *, found: Waits, ended: threading.Event) -> None:
    with _client(url, key) as http:
        while not ended.is_set():
            for name, request in cheap.items():
                began = time.monotonic()
                with contextlib.suppress(httpx.TimeoutException):  # which counts as answered then
                    http.request(request.method, request.path, **request.options).raise_for_status()
                found.seconds.setdefault(name, []).append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)


def _client(url: str, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=MOST_SECONDS_OF_AN_ANSWER)


def measured(directory: Path, only: list[str]) -> dict[str, Any]:
    """What the other key waits for, by the name of the load."""
    keys = KeyStore(directory / "data" / "keys.json")
    greedy, other = (keys.add(name, role="user", requests_per_minute=100_000) for name in ("greedy", "other"))
    with RunningStack(directory / "data", 1) as stack:
        things: ExpensiveRequests = prepared(stack, greedy, other)
        found = {}
        for name, expensive in things.expensive.items():
            if only and name not in only:
                continue
            found[name] = watched(stack.url, greedy, expensive, cheap=things.cheap, other=other).summary()
            print(name, json.dumps(found[name]), flush=True)
            stack.wait_until_ready()
            time.sleep(2)
        return found


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "# How long other keys wait while one key sends the most expensive requests",
        "",
        server_line(report["host"]),
        "",
        f"One key sends {NUM_AT_ONCE} requests at once and gives up on them after {MOST_SECONDS_OF_A_LOAD:.0f} s. "
        "Meanwhile another key waits: the longest and the median time, in milliseconds.",
        "",
        "| one key requests | responses | `GET /v1/jobs/ID` | `/v1/health/ready` | goal |",
        "|---|---|---|---|---|",
    ]
    for name, found in report["loads"].items():
        waits = found["waits"]
        longest = max(each["longest"] for each in waits.values())
        statuses = ", ".join(f"{number} x {status}" for status, number in sorted(found["statuses"].items()))
        cells = [f"{1e3 * each['longest']:.0f}, {1e3 * each['median']:.0f}" for each in waits.values()]
        word = "reached" if longest <= MAX_SECONDS else "missed"
        answered = f"{statuses} in {found['load_seconds']:.1f} s"
        lines.append(f"| {name} | {answered} | {' | '.join(cells)} | {MAX_SECONDS:g} s: {word} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of loads to measure; default: all")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/fairness.json and .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spectrum-fairness-") as directory:
        loads = measured(Path(directory), arguments.only)
    report = {"host": server_environment(), "loads": loads}
    if arguments.save:
        (RESULTS / "fairness.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "fairness.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
