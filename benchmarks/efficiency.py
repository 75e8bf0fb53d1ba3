"""`python -m benchmarks.efficiency`: one job in shards and 200 small jobs, on one worker and on eight of one core each.

Where the machine has too few cores, workers are simulated: products sleep for the time that one takes on one core, see
`benchmarks.simulated_worker`. Messages, leases, shards, checkpoints, results and Redis, which syncs every write, are
real, and share the cores of this machine.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks.environment import server_environment, server_line
from benchmarks.reports import RESULTS, publish
from benchmarks.scale import running_redis
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.creation import JobSpecification
from hessian_spectrum.jobs.plans import plan_job, stored_plan
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.worker_registry import registered_workers
from hessian_spectrum.storage.stores import open_stores

NUM_WORKERS = 8
LEAST_EFFICIENCY = 0.8
NUM_SMALL_JOBS, NUM_SMALL_PRODUCTS = 200, 6
NUM_PROBES, NUM_STEPS, NUM_SHARDS = 16, 42, 16
PRODUCT_SECONDS, FIRST_SECONDS = 0.178, 0.9
"""Time of a Gauss-Newton product of `benchmarks.shards` on one core, and that of the first one of a worker."""
MEMORY_BYTES = 2**29
START_SECONDS, JOB_SECONDS = 300.0, 1200.0


def request(num_steps: int, num_probes: int, seed: int) -> dict[str, Any]:
    """A density of a small network, of which all but the products is computed."""
    return {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [64, 32, 10]},
        "data": {"kind": "digits", "num_samples": 256},
        "loss": "cross-entropy",
        "matrix": "ggn",
        "method": {"kind": "lanczos", "num_steps": num_steps, "num_probes": num_probes},
        "seed": seed,
    }


def specification(fields: dict[str, Any], num_shards: int) -> JobSpecification:
    """A job with a plan for so many shards, which that of a network with such long products would have."""
    message = JobRequest.model_validate(fields).root
    plan = plan_job(message.canonical(), MEMORY_BYTES)
    plan = replace(plan, whole=replace(plan.whole, num_shards=num_shards))
    return JobSpecification("spectrum", message.model_dump_json(exclude_none=True), plan=stored_plan(plan))


@dataclass(frozen=True)
class Deployment:
    """Redis, a results directory, and workers."""

    client: redis.Redis
    store: JobStore
    queue: JobQueue

    def ended(self, specifications: Sequence[JobSpecification]) -> list[JobRecord]:
        """Submit jobs together, and wait for all of them.

        Raises:
            RuntimeError: One did not succeed in time.
        """
        records, _ = self.store.creator.create(specifications)
        for record in records:
            self.queue.publish(record.id)
        deadline = time.monotonic() + JOB_SECONDS
        waiting = [record.id for record in records]
        while time.monotonic() < deadline and len(self.store.finished_among(waiting)) < len(waiting):
            time.sleep(0.5)
        ended = [self.store.get(record.id) for record in records]
        if any(each.state != "succeeded" for each in ended):
            raise RuntimeError(f"a job ended as {[each.state for each in ended]}")
        return ended


@contextlib.contextmanager
def deployment(num_workers: int, *, seconds: float, first_seconds: float) -> Iterator[Deployment]:
    """A deployment whose products take so many seconds; 0: they are computed, by workers with a core each."""
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-efficiency-") as directory,
        running_redis("--appendonly", "yes", "--appendfsync", "always") as url,
        contextlib.ExitStack() as processes,
    ):
        client, stores = connect(url, patient=True), open_stores(Path(directory))
        StorageIdentity(client, stores.results, stores.checkpoints).settle()
        environment = os.environ | {
            "SPECTRUM_REDIS_URL": url,
            "SPECTRUM_RESULTS_DIR": directory,
            "SPECTRUM_NUM_THREADS": "1",
            "SPECTRUM_MEMORY_BYTES": str(MEMORY_BYTES),
        }
        for number in range(num_workers):
            core = [] if seconds else ["--core", str(number)]
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.simulated_worker"]
            process = subprocess.Popen([*command, str(seconds), str(first_seconds), *core], env=environment)
            processes.callback(process.wait, 30)
            processes.callback(process.terminate)
        deadline = time.monotonic() + START_SECONDS
        while len(registered_workers(client)) < num_workers:
            if time.monotonic() > deadline:
                raise RuntimeError("the workers do not start")
            time.sleep(0.2)
        deployed = Deployment(client, JobStore(client, lease_seconds=15.0, max_attempts=3), JobQueue(url))
        # every process has loaded what only its first job needs
        warm_up = [
            specification(request(NUM_SMALL_PRODUCTS, 1, 10**6 + number), 1) for number in range(2 * num_workers)
        ]
        deployed.ended(warm_up)
        yield deployed


def seconds_of(ended: Sequence[JobRecord]) -> float:
    """Seconds from the first claim to the last end."""
    started = min(each.started_at for each in ended if each.started_at is not None)
    finished = max(each.finished_at for each in ended if each.finished_at is not None)
    return (finished - started).total_seconds()


def measured(num_workers: int, *, seconds: float, first_seconds: float, num_small: int) -> dict[str, float]:
    """Seconds of the job in shards and of the small jobs."""
    found = {}
    long_job = specification(request(NUM_STEPS, NUM_PROBES, 0), NUM_SHARDS)
    small = [specification(request(NUM_SMALL_PRODUCTS, 1, seed), 1) for seed in range(num_small)]
    for name, jobs in {"sharded": [long_job], "small": small}.items():
        with deployment(num_workers, seconds=seconds, first_seconds=first_seconds) as deployed:
            found[name] = seconds_of(deployed.ended(jobs))
    return found


def report_of(num_workers: int, num_small: int) -> dict[str, Any]:
    """The times on one worker and on several, and the efficiencies."""
    options: dict[str, Any] = {"seconds": PRODUCT_SECONDS, "first_seconds": FIRST_SECONDS, "num_small": num_small}
    many, one = measured(num_workers, **options), measured(1, **options)
    return {
        "host": server_environment(),
        "num_workers": num_workers,
        "num_small": num_small,
        "one": one,
        "many": many,
        "efficiency": {name: one[name] / (num_workers * many[name]) for name in one},
    }


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    titles = {
        "sharded": f"one job of {NUM_PROBES * NUM_STEPS} products in {NUM_SHARDS} shards",
        "small": f"{report['num_small']} jobs of {NUM_SMALL_PRODUCTS} products",
    }
    rows = [
        f"| {title} | {report['one'][name]:.1f} s | {report['many'][name]:.1f} s | {report['efficiency'][name]:.2f} |"
        for name, title in titles.items()
    ]
    reached = "reached" if min(report["efficiency"].values()) >= LEAST_EFFICIENCY else "missed"
    lines = [
        f"# {report['num_workers']} workers of one core each",
        "",
        server_line(report["host"]),
        "",
        f"The workers are simulated: a product sleeps for {PRODUCT_SECONDS} s, the first one of each worker at a job "
        f"for {FIRST_SECONDS} s, as products of a million parameters take on one core. Everything else is real and "
        "shares the cores of this machine. Times from the first claim to the last end.",
        "",
        f"| | one worker | {report['num_workers']} workers | efficiency |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Goal: an efficiency of at least {LEAST_EFFICIENCY} in both cases: {reached}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=NUM_WORKERS)
    parser.add_argument("--small", type=int, default=NUM_SMALL_JOBS, help="number of small jobs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/efficiency.json and .md")
    arguments = parser.parse_args()
    report = report_of(arguments.workers, arguments.small)
    publish(arguments, "efficiency", report, table=table(report))


if __name__ == "__main__":
    main()
