"""`python -m benchmarks.sweeps`: tiny spectra as one sweep and as single jobs, and a sweep on one and two workers."""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import server_environment, server_line
from benchmarks.stack import RunningStack
from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.client.http import SpectrumClient

RESULTS = Path(__file__).parent / "results"
NUM_TINY, NUM_SINGLE, NUM_ROUNDS = 1000, 200, 3
LEAST_RATE = 288.0
"""Points per second: ten times the rate of single jobs in results/job_overhead.md when sweeps were built."""

LEAST_RATIO = 1.7
SETTINGS = {"SPECTRUM_NUM_THREADS": "1", "SPECTRUM_MEMORY_BYTES": str(2**30)}

TINY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [4, 8, 2], "activation": "tanh"},
    "data": {"kind": "gaussian", "num_samples": 32, "input_dim": 4, "output_dim": 2},
    "loss": "mse",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 2, "num_points": 64},
}

TRAINED: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 32, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 512},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 20, "num_probes": 2, "num_points": 64},
    "train": {"num_steps": 300, "learning_rate": 0.1, "batch_size": 64},
}


def tiny_sweep(num_points: int, seed: int) -> dict[str, Any]:
    """Networks of one shape with seeds of their own."""
    first = seed * num_points
    return {"kind": "sweep", "base": TINY, "over": {"model.seed": list(range(first, first + num_points))}}


def trained_sweep(seed: int) -> dict[str, Any]:
    """Trainings with 8 seeds and 8 learning rates, of networks with two widths."""
    over = {
        "model.widths": [[64, 32, 10], [64, 48, 10]],
        "train.learning_rate": [0.02 * 2 ** (index / 2) for index in range(8)],
        "model.seed, train.seed": list(range(8 * seed, 8 * seed + 8)),
    }
    return {"kind": "sweep", "base": TRAINED, "over": over}


def measured_rates(num_workers: int, num_rounds: int) -> dict[str, Any]:
    """Points of a sweep and single jobs per second, from accepted to done."""
    with _stack(num_workers) as stack, SpectrumClient(stack.url) as client:
        _seconds(client, tiny_sweep(20, seed=10**6))
        sweeps, singles = [], []
        for seed in range(num_rounds):
            sweeps.append(NUM_TINY / _seconds(client, tiny_sweep(NUM_TINY, seed)))
            singles.append(NUM_SINGLE / _seconds_of_singles(stack.url, client, seed))
    return {"num_workers": num_workers, "sweep": sweeps, "single_jobs": singles}


def measured_workers(num_rounds: int) -> dict[str, Any]:
    """Seconds of a sweep of trainings on one worker and on two, and whether the numbers are the same."""
    seconds: dict[int, list[float]] = {}
    columns: dict[int, list[Any]] = {}
    for num_workers in (1, 2):
        with _stack(num_workers) as stack, SpectrumClient(stack.url) as client:
            _seconds(client, trained_sweep(10**6))
            seconds[num_workers] = [_seconds(client, trained_sweep(seed)) for seed in range(num_rounds)]
            jobs = [job for job in client.jobs() if job.kind == "sweep"]
            results = [client.result(job.id) for job in jobs[:num_rounds]]
            columns[num_workers] = [each.columns for each in results if isinstance(each, SweepResult)]
    return {
        "num_points": 128,
        "one_worker_seconds": seconds[1],
        "two_workers_seconds": seconds[2],
        "ratio": statistics.median(seconds[1]) / statistics.median(seconds[2]),
        "same_numbers": columns[1] == columns[2],
    }


@contextlib.contextmanager
def _stack(num_workers: int) -> Iterator[RunningStack]:
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-sweeps-") as directory,
        RunningStack(Path(directory) / "data", num_workers, **SETTINGS) as stack,
    ):
        yield stack


def _seconds(client: SpectrumClient, request: dict[str, Any]) -> float:
    record = client.wait(client.submit(request).id, timeout_seconds=3600)
    if record.finished_at is None or record.state != "succeeded":
        raise RuntimeError(f"the job ended as {record.state}: {record.error}")
    return (record.finished_at - record.created_at).total_seconds()


def _seconds_of_singles(url: str, client: SpectrumClient, seed: int) -> float:
    """Seconds from the first accepted job to the last one that is done, of many that are sent at once."""
    started = time.perf_counter()
    with httpx.Client(base_url=url, timeout=60) as http:
        ids = []
        for index in range(NUM_SINGLE):
            job = TINY | {"model": TINY["model"] | {"seed": 10**7 + seed * NUM_SINGLE + index}}
            ids.append(http.post("/v1/jobs", json=job).raise_for_status().json()["id"])
        for job_id in ids:
            if client.wait(job_id).state != "succeeded":
                raise RuntimeError("a job failed")
    return time.perf_counter() - started


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    rates, workers = report["rates"], report["workers"]
    medians = [[statistics.median(each[name]) for name in ("sweep", "single_jobs")] for each in rates]
    best = max(sweep for sweep, _ in medians)
    same = "the same numbers as one" if workers["same_numbers"] else "other numbers than one"
    lines = [
        "# Many spectra in one request",
        "",
        server_line(report["host"]),
        "",
        f"{NUM_TINY:,} tiny densities (58 parameters, 2 probes of 10 steps) over HTTP, as one sweep and as "
        f"{NUM_SINGLE} single jobs at once, from accepted to done, by workers with one thread each; medians of "
        f"{len(rates[0]['sweep'])} rounds, sweep and single jobs in turn:",
        "",
        "| workers | sweep, points per second | single jobs per second | ratio |",
        "|---|---|---|---|",
        *(
            f"| {each['num_workers']} | {sweep:.0f} | {single:.1f} | {sweep / single:.1f} |"
            for each, (sweep, single) in zip(rates, medians, strict=True)
        ),
        "",
        f"Goal: {LEAST_RATE:.0f} per second on this machine, which is 10 times the rate of trivial single jobs before "
        f"there were sweeps: {_verdict(best >= LEAST_RATE)}.",
        "",
        f"A sweep of {workers['num_points']} trainings of 300 steps, each followed by a density: one worker "
        f"{statistics.median(workers['one_worker_seconds']):.1f} s, two workers "
        f"{statistics.median(workers['two_workers_seconds']):.1f} s, ratio {workers['ratio']:.2f}. "
        f"Goal: {LEAST_RATIO}: {_verdict(workers['ratio'] >= LEAST_RATIO)}. Two workers give {same}.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/sweeps.json and .md")
    arguments = parser.parse_args()
    report = {
        "host": server_environment(),
        "rates": [measured_rates(num_workers, arguments.rounds) for num_workers in (1, 2)],
        "workers": measured_workers(arguments.rounds),
    }
    if arguments.save:
        (RESULTS / "sweeps.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "sweeps.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
