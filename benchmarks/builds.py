"""`python -m benchmarks.builds OLD_URL NEW_URL`: the same requests to two running servers, in turn.

Start each build with `spectrum-server up` in its own checkout, with the same settings, on the same quiet machine.
Every sample is a pair, one request or batch to each server with the order alternating, and its ratio; the medians of
the ratios are reported with their quartiles. The answers of each pair must be equal, but for provenance.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.environment import server_environment, server_line

RESULTS = Path(__file__).parent / "results"
MAX_RATIO = 1.03
NUM_CLOSED_FORMS, NUMTINY_JOBS = 200, 10
JOB_SECONDS = 60

_DIGITS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 32, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 500},
    "loss": "cross-entropy",
}
_GPT2: dict[str, Any] = {
    "kind": "spectrum",
    "model": {
        "kind": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 64,
        "n_positions": 64,
        "vocab_size": 256,
    },
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 64},
    "loss": "cross-entropy",
}
TINY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
CLOSED_FORM: dict[str, Any] = {
    "model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
    "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
}
LANCZOS = {"kind": "lanczos", "num_steps": 80, "num_probes": 4, "num_points": 512}
TRACE = {"kind": "trace", "estimator": "hutchinson", "num_probes": 64}

Sample = tuple[float, Any]
"""Seconds, and what must be equal."""


@dataclass(frozen=True)
class Task:
    """Something to ask of both servers.

    Args:
        name: What is measured.
        ask: Called with a client and the number of the sample; returns seconds and what must be equal.
        num_samples: How many pairs.
    """

    name: str
    ask: Callable[[httpx.Client, int], Sample]
    num_samples: int


def _closed_forms(http: httpx.Client, number: int) -> Sample:
    request = {**CLOSED_FORM, "model": {**CLOSED_FORM["model"], "w": [0.5, -1.0, 0.25 + number]}}
    began = time.perf_counter()
    for _ in range(NUM_CLOSED_FORMS):
        answer = http.post("/v1/closed-form", json=request)
    seconds = time.perf_counter() - began
    return seconds, answer.raise_for_status().json()


def _job(http: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=request, headers={"Prefer": f"wait={JOB_SECONDS}", "Cache-Control": "no-cache"})
    job = answer.raise_for_status().json()
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job has not succeeded: {job}")
    return dict(http.get(f"/v1/jobs/{job['id']}/result").raise_for_status().json())


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what states when and how long it was computed."""
    return {name: value for name, value in result.items() if name not in {"provenance", "arrays"}}


def _computation(request: dict[str, Any]) -> Callable[[httpx.Client, int], Sample]:
    def ask(http: httpx.Client, number: int) -> Sample:
        result = _job(http, request | {"seed": number})
        return float(result["provenance"]["wall_time_seconds"]), _numbers(result)

    return ask


def _tiny_jobs(http: httpx.Client, number: int) -> Sample:
    began = time.perf_counter()
    results = [_job(http, TINY | {"seed": number * NUMTINY_JOBS + each}) for each in range(NUMTINY_JOBS)]
    seconds = time.perf_counter() - began
    return seconds, [_numbers(result) for result in results]


TASKS = [
    Task(f"{NUM_CLOSED_FORMS} closed forms, one after the other", _closed_forms, 20),
    Task("density of a digits classifier", _computation(_DIGITS | {"method": LANCZOS}), 15),
    Task(
        "exact spectrum of a small mlp",
        _computation(
            TINY
            | {
                "model": {"kind": "mlp", "widths": [10, 24, 10]},
                "data": {"kind": "gaussian", "num_samples": 64, "input_dim": 10, "output_dim": 10},
            }
        ),
        15,
    ),
    Task("64 products with the Hessian of a small GPT-2", _computation(_GPT2 | {"method": TRACE}), 15),
    Task(f"{NUMTINY_JOBS} tiny jobs, one after the other", _tiny_jobs, 20),
]


def compare(old: httpx.Client, new: httpx.Client, task: Task) -> dict[str, Any]:
    """The ratio new/old of each pair, summarised.

    Raises:
        AssertionError: Both answered differently.
    """
    pairs = []
    for number in range(-2, task.num_samples):
        order = [old, new] if number % 2 else [new, old]
        samples = {id(http): task.ask(http, number % 10**6) for http in order}
        (old_seconds, old_answer), (new_seconds, new_answer) = samples[id(old)], samples[id(new)]
        if json.dumps(old_answer, sort_keys=True) != json.dumps(new_answer, sort_keys=True):
            raise AssertionError(f"{task.name}: both servers answer differently")
        if number >= 0:
            pairs.append((old_seconds, new_seconds))
    seconds = np.array(pairs)
    low, median, high = np.quantile(seconds[:, 1] / seconds[:, 0], [0.25, 0.5, 0.75])
    return {
        "old_seconds": float(np.median(seconds[:, 0])),
        "new_seconds": float(np.median(seconds[:, 1])),
        "ratio": float(median),
        "quartiles": [float(low), float(high)],
        "reached": bool(median <= MAX_RATIO),
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Two builds side by side",
        "",
        server_line(report["host"])
        + f" Old build: {report['old_commit']}. Ratios are new/old, pair by pair; goal: at most {MAX_RATIO}.",
        "",
        "| | old, s | new, s | ratio | quartiles | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["tasks"].items():
        low, high = row["quartiles"]
        lines.append(
            f"| {name} | {row['old_seconds']:.4f} | {row['new_seconds']:.4f} | {row['ratio']:.3f} "
            f"| {low:.3f} to {high:.3f} | {'yes' if row['reached'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builds", description=__doc__)
    parser.add_argument("old", help="URL of the build to compare with")
    parser.add_argument("new", help="URL of this build")
    parser.add_argument("--old-commit", default="unknown", help="commit of the old build, for the report")
    parser.add_argument("--save", action="store_true", help="write results/builds.json and .md")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"host": server_environment(), "old_commit": arguments.old_commit, "tasks": {}}
    with (
        httpx.Client(base_url=arguments.old, timeout=JOB_SECONDS + 30) as old,
        httpx.Client(base_url=arguments.new, timeout=JOB_SECONDS + 30) as new,
    ):
        for task in TASKS:
            report["tasks"][task.name] = compare(old, new, task)
            print(task.name, report["tasks"][task.name], flush=True)
    if arguments.save:
        (RESULTS / "builds.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "builds.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
