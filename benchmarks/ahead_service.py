"""`python -m benchmarks.ahead_service OLD`: what the service and an idle stack cost in this build and in another one.

OLD is a folder with an earlier commit in which `make setup` was run. Both builds take turns, each on servers of its
own; the clients are those of this build and run on the same machine.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.builds import CLOSED_FORM, TINY
from benchmarks.job_stream import JobStream
from benchmarks.load import request_bytes, requests_per_second
from benchmarks.mixed_load import BODY, quantiles
from benchmarks.open_loop_load import offer
from benchmarks.processes import descendants, processor_seconds, resident_bytes
from benchmarks.server import wait_until_listening
from benchmarks.stack import HOST, RunningStack, free_port

ECHO_FILE = Path(__file__).with_name("echo_server.py")
PATH = "/v1/closed-form"

BLOCK_SECONDS, NUM_BLOCKS = 0.5, 10
OFFERED_PER_SECOND = {300: 0.025, 500: 0.05}
"""Requests a second while jobs run, and the largest 99th percentile of their latency in seconds."""
OFFER_SECONDS, NUM_OFFERS = 15.0, 2
SETTLING_SECONDS = 5.0
NUM_STARTS = 3


@dataclass(frozen=True)
class Row:
    """What is compared.

    Attributes:
        title: What it is, for people.
        quantity: Its name among the measured ones.
        goal: Largest value of this build, or largest ratio to the other one if `is_ratio`; None: there is no goal.
        is_ratio: What the goal is about.
    """

    title: str
    quantity: str
    goal: float | None
    is_ratio: bool


ROWS = [
    Row("closed forms: seconds of one, four clients", "request_seconds", 1 / 1.8, True),
    Row("closed forms: seconds of one / those of a bare ASGI echo", "echo_ratio", 1 / 0.65, False),
    Row("closed forms: processor seconds of the service for one", "processor_seconds", None, True),
    Row("the same / those of a bare ASGI echo", "echo_processor_ratio", None, False),
    *(
        Row(f"closed forms at {rate} a second while jobs run: p99, seconds", f"p99_at_{rate}", goal, False)
        for rate, goal in OFFERED_PER_SECOND.items()
    ),
    Row("seconds from `up` to the first closed form", "first_closed_form", 0.4, True),
    Row("seconds from `up` to the end of the first job", "first_job", 0.7, True),
    Row("memory of an idle stack, bytes", "idle_bytes", 0.6, True),
]

Samples = Mapping[str, list[float]]


@dataclass(frozen=True)
class Build:
    """A checkout with its `.venv`."""

    bin: Path

    @contextlib.contextmanager
    def server(self, *command: str) -> Iterator[tuple[int, int]]:
        """Run a Python program that listens on the port that is its last argument, without Redis and worker.

        Yields:
            The port, and the id of the process.
        """
        port = free_port()
        with tempfile.TemporaryDirectory() as directory:
            settings = {"SPECTRUM_REDIS_URL": f"unix://{directory}/none.sock", "SPECTRUM_RESULTS_DIR": directory}
            process = subprocess.Popen(
                [str(self.bin / "python"), "-P", *command, str(port)],
                env=os.environ | settings,
                stderr=subprocess.DEVNULL,
            )
            try:
                wait_until_listening(port, process)
                yield port, process.pid
            finally:
                process.terminate()
                process.wait(10)

    def stack(self, directory: Path) -> RunningStack:
        """Return a stack of this build that is not started yet."""
        return RunningStack(directory / "data", 1).of_build(self.bin)


def closed_forms(builds: Mapping[str, Build]) -> dict[str, Samples]:
    """The rate of closed forms and of a bare echo, by build; blocks of a second in turn."""
    _, body = request_bytes(PATH, _json(BODY), "application/json")
    commands = {"answer": ("-m", "hessian_spectrum.service", "--port"), "echo": (str(ECHO_FILE),)}
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {
            (build, what): stack.enter_context(builds[build].server(*command))
            for build in builds
            for what, command in commands.items()
        }
        for number in range(-1, NUM_BLOCKS):
            for key in sorted(servers, reverse=bool(number % 2)):
                port, pid = servers[key]
                before = processor_seconds(pid)
                rate = requests_per_second(port, PATH, body, seconds=BLOCK_SECONDS)
                processor = (processor_seconds(pid) - before) / (rate * BLOCK_SECONDS)
                if number >= 0:
                    seconds.setdefault(key, []).append((1 / rate, processor))
    return {build: _closed_form_samples(seconds[build, "answer"], seconds[build, "echo"]) for build in builds}


def _closed_form_samples(answers: list[tuple[float, float]], echoes: list[tuple[float, float]]) -> Samples:
    pairs = list(zip(answers, echoes, strict=True))
    return {
        "request_seconds": [answer[0] for answer in answers],
        "processor_seconds": [answer[1] for answer in answers],
        "echo_ratio": [answer[0] / echo[0] for answer, echo in pairs],
        "echo_processor_ratio": [answer[1] / echo[1] for answer, echo in pairs],
    }


def mixed_load(builds: Mapping[str, Build]) -> dict[str, Samples]:
    """The latency of closed forms at fixed rates while jobs run; the stacks take turns, each alone."""
    message = b"".join(request_bytes(PATH, _json(BODY), "application/json"))
    samples: dict[str, dict[str, list[float]]] = {build: {} for build in builds}
    for number in range(NUM_OFFERS):
        for name in sorted(builds, reverse=bool(number % 2)):
            with (
                tempfile.TemporaryDirectory(prefix="spectrum-ahead-") as directory,
                builds[name].stack(Path(directory)) as stack,
                JobStream(stack.url) as jobs,
            ):
                jobs.wait_for_first()
                for rate in OFFERED_PER_SECOND:
                    answers = offer(stack.port, message, rate, seconds=OFFER_SECONDS, seed=number)
                    _require(not answers.num_errors and not jobs.faults, "a request or a job has failed")
                    p99 = quantiles(answers.seconds)["p99"]
                    samples[name].setdefault(f"p99_at_{rate}", []).append(p99)
    return {build: dict(found) for build, found in samples.items()}


def starts(builds: Mapping[str, Build]) -> dict[str, Samples]:
    """How soon a stack with an empty data directory answers, and what it holds in memory once it has nothing to do."""
    samples: dict[str, dict[str, list[float]]] = {build: {} for build in builds}
    for number in range(-1, NUM_STARTS):
        for name in sorted(builds, reverse=bool(number % 2)):
            with tempfile.TemporaryDirectory(prefix="spectrum-ahead-") as directory:
                found = _start(builds[name].stack(Path(directory)))
            if number >= 0:
                for quantity, value in found.items():
                    samples[name].setdefault(quantity, []).append(value)
    return {build: dict(found) for build, found in samples.items()}


def _start(stack: RunningStack) -> dict[str, float]:
    began = time.perf_counter()
    stack.launch()
    try:
        with httpx.Client(base_url=stack.url, timeout=120) as http:
            _post_until_answered(http, PATH, CLOSED_FORM, stack)
            first_closed_form = time.perf_counter() - began
            job = _post_until_answered(http, "/v1/jobs", TINY, stack)
            while job["state"] not in ("succeeded", "failed"):
                job = http.get(f"/v1/jobs/{job['id']}", params={"wait": 10}).raise_for_status().json()
            first_job = time.perf_counter() - began
            _require(job["state"] == "succeeded", f"the job has not succeeded: {job}")
        time.sleep(SETTLING_SECONDS)
        idle_bytes = sum(map(resident_bytes, [stack.pid, *descendants(stack.pid)]))
        return {"first_closed_form": first_closed_form, "first_job": first_job, "idle_bytes": float(idle_bytes)}
    finally:
        stack.stop()


def _post_until_answered(http: httpx.Client, path: str, document: Any, stack: RunningStack) -> dict[str, Any]:
    while True:
        _require(stack.is_running, f"the stack has ended; see {stack.log}")
        with contextlib.suppress(httpx.TransportError):
            response = http.post(path, json=document)
            if response.is_success:
                return dict(response.json())
            _require(response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text)
        time.sleep(0.01)


def _require(is_met: bool, message: str) -> None:
    if not is_met:
        raise RuntimeError(message)


def _json(document: Any) -> bytes:
    return httpx.Request("POST", f"http://{HOST}", json=document).content


PARTS = {"closed-forms": closed_forms, "mixed-load": mixed_load, "starts": starts}


def measure(old: Path, parts: Mapping[str, Any] = PARTS) -> list[dict[str, Any]]:
    """Return every row with the medians of both builds, in the form of `benchmarks.ahead`."""
    builds = {"old": Build(old / ".venv" / "bin"), "new": Build(Path(sys.executable).parent)}
    samples: dict[str, dict[str, list[float]]] = {build: {} for build in builds}
    for part in parts.values():
        for build, found in part(builds).items():
            samples[build] |= found
    return [_compared(row, samples["old"], samples["new"]) for row in ROWS if row.quantity in samples["new"]]


def _compared(row: Row, old: Samples, new: Samples) -> dict[str, Any]:
    before, after = old[row.quantity], new[row.quantity]
    ratio = median(one / other for one, other in zip(after, before, strict=True))
    judged = ratio if row.is_ratio else median(after)
    return {
        "title": row.title,
        "old": median(before),
        "new": median(after),
        "ratio": ratio,
        "goal": row.goal,
        "goal_is_ratio": row.is_ratio,
        "reached": None if row.goal is None else judged <= row.goal,
        "difference": None,
    }


def main() -> None:
    from benchmarks.ahead import lines  # noqa: PLC0415 - which takes these rows, too

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old", type=Path, help="checkout of an earlier commit, with its .venv")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    print("\n".join(lines(measure(arguments.old.resolve(), {name: PARTS[name] for name in arguments.only}))))


if __name__ == "__main__":
    main()
