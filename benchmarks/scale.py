"""`python -m benchmarks.scale OLD`: what Redis does for the queue while 100 to 100,000 jobs wait, in two builds.

OLD is a folder with an earlier commit in which `make setup` was run. Each build gets a Redis of its own. A thousand
workers are registered, and each runs a job; they, and those that wait for a message, are simulated: they ask what real
ones ask, but compute nothing.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import redis

from benchmarks.environment import server_environment, server_line
from benchmarks.reports import RESULTS, publish
from hessian_spectrum.launcher.embedded_redis import server_binary

TASKS_FILE = Path(__file__).with_name("scale_tasks.py")
SIZES = [100, 10_000, 100_000]
TIMEOUT_SECONDS = 1800
MAX_GROWTH = 1.01
"""Largest ratio of the numbers of commands at the two largest sizes."""

WAITING = "a second of all workers that wait"
"""Measured without jobs."""

Costs = dict[str, dict[str, dict[str, float]]]
"""What a call costs, by operation and number of waiting jobs."""


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """URL of an empty Redis that ends with the block; unless the options say so, it writes nothing to the disk."""
    with tempfile.TemporaryDirectory(prefix="spectrum-scale-") as directory:
        path = Path(directory) / "redis.sock"
        command = [server_binary(), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory]
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
            try:
                url = f"unix://{path}?db=0"
                _wait_until_ready(url)
                yield url
            finally:
                process.terminate()


def _wait_until_ready(url: str) -> None:
    client = redis.Redis.from_url(url)
    for _ in range(200):
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            return
        time.sleep(0.05)
    raise RuntimeError("Redis does not start")


def measure(pythons: dict[str, Path], sizes: list[int], num_rounds: int) -> dict[str, Costs]:
    """The costs of each build: medians of the rounds, in which the builds take turns."""
    runs: dict[str, list[Costs]] = {build: [] for build in pythons}
    for number in range(num_rounds):
        for build in sorted(pythons, reverse=bool(number % 2)):
            with running_redis() as url:
                command = [str(pythons[build]), "-W", "ignore", str(TASKS_FILE), url, *map(str, sizes)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_SECONDS)
            runs[build].append(json.loads(done.stdout))
    return {build: _medians(found) for build, found in runs.items()}


def _medians(runs: list[Costs]) -> Costs:
    return {
        title: {
            size: {name: median(run[title][size][name] for run in runs) for name in cost}
            for size, cost in sizes.items()
        }
        for title, sizes in runs[0].items()
    }


def growth(costs: dict[str, dict[str, float]], name: str = "commands") -> float:
    """Ratio of a cost at the largest size to that at the size before, where bounded searches are at their bounds."""
    *_, before, last = costs.values()
    return last[name] / before[name]


def lines(builds: dict[str, Costs]) -> Iterator[str]:
    """A table with a row for each operation and build."""
    titles = [title for title in builds["new"] if title != WAITING]
    sizes = list(builds["new"][titles[0]])
    yield "| operation | build | " + " | ".join(f"{int(size):,} jobs" for size in sizes) + " | growth |"
    yield "|---|---|" + len(sizes) * "---|" + "---|"
    for title in titles:
        for build, costs in builds.items():
            cells = " | ".join(_cell(costs[title][size]) for size in sizes)
            yield f"| {title} | {build} | {cells} | {growth(costs[title]):.2f} |"


def _cell(cost: dict[str, float]) -> str:
    return f"{cost['commands']:,.0f} / {1e6 * cost['server_seconds']:,.0f} µs / {1e3 * cost['seconds']:,.2f} ms"


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    builds = report["builds"]
    grown = [title for title in builds["new"] if title != WAITING and growth(builds["new"][title]) > MAX_GROWTH]
    reached = f"missed by {', '.join(grown)}" if grown else "reached"
    parts = [
        "# The queue with 1,000 workers",
        "",
        f"{server_line(report['host'])} Build `old`: commit {report['old_commit']}.",
        "",
        "Each cell: commands of one call, those of scripts included / time of the Redis process / time of the caller. "
        "Growth: commands at the largest number of waiting jobs, divided by those at the number before. All waiting "
        "jobs have one tag; a tenth as many are cancelled and have another. A thousand simulated workers are "
        "registered and hold the lease of one job each.",
        "",
        *lines(builds),
        "",
        *(_idle(build, costs[WAITING]["0"]) for build, costs in builds.items()),
        "",
        f"Goal: no operation asks Redis for more commands when more jobs wait: {reached} by build `new`.",
    ]
    return "\n".join(parts) + "\n"


def _idle(build: str, waiting: dict[str, float]) -> str:
    return (
        f"Build `{build}`: 1,000 workers that wait for a message take {100 * waiting['server_seconds']:.1f} % of a "
        f"core of Redis; a message is with one of them after {1e3 * waiting['seconds']:.1f} ms.\n"
    )


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old", type=Path, nargs="?", help="checkout of an earlier commit, with its .venv")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of waiting jobs, ascending")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/scale.json and .md")
    arguments = parser.parse_args()
    pythons, commit = {"new": Path(sys.executable)}, "none"
    if arguments.old is not None:
        pythons = {"old": arguments.old.resolve() / ".venv" / "bin" / "python", **pythons}
        commit = subprocess.check_output(["git", "-C", arguments.old, "rev-parse", "--short", "HEAD"], text=True)
    builds = measure(pythons, arguments.sizes, arguments.rounds)
    report = {"host": server_environment(), "old_commit": commit.strip(), "builds": builds}
    publish(arguments, "scale", report, table=table(report))


if __name__ == "__main__":
    main()
