"""`python -m benchmarks.job_overhead`: what a job costs beside its computation, from its acceptance to its end."""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import server_environment, server_line
from benchmarks.stack import RunningStack

RESULTS = Path(__file__).parent / "results"
NUM_JOBS, NUM_WARM_UP, NUM_CALLERS = 200, 10, 4
MAX_MEDIAN_SECONDS = 0.05
TINY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
_STAGES = {
    "total": "from accepted to done, without the computation",
    "message": "of this, from accepted to claimed",
    "worker": "of this, from claimed to done: lease, progress, result on disk",
    "caller": "from done to the response, for a client that waits with Prefer",
}


def _submit(http: httpx.Client, seed: int, wait: int) -> Any:
    headers = {"Cache-Control": "no-cache"} | ({"Prefer": f"wait={wait}"} if wait else {})
    answer = http.post("/v1/jobs", json=TINY | {"seed": seed}, headers=headers)
    answer.raise_for_status()
    return answer.json()


def _overhead(http: httpx.Client, job: dict[str, Any]) -> dict[str, float]:
    """Seconds of each stage of a job that succeeded."""
    created, started, finished = (
        datetime.fromisoformat(job[name]).timestamp() for name in ("created_at", "started_at", "finished_at")
    )
    result = http.get(f"/v1/jobs/{job['id']}/result").raise_for_status().json()
    computing = float(result["provenance"]["wall_time_seconds"])
    worker = finished - started - computing
    return {"total": started - created + worker, "message": started - created, "worker": worker, "computing": computing}


def one_at_a_time(http: httpx.Client) -> list[dict[str, float]]:
    """Each submitted when the one before it has ended."""
    found = []
    for seed in range(-NUM_WARM_UP, NUM_JOBS):
        job = _submit(http, seed % 10**6, wait=30)
        answered = datetime.now().timestamp()
        stages = _overhead(http, job)
        stages["caller"] = answered - datetime.fromisoformat(job["finished_at"]).timestamp()
        if seed >= 0:
            found.append(stages)
    return found


def at_once(http: httpx.Client) -> dict[str, float]:
    """All submitted as fast as the service takes them: what each takes from the worker beside its computation."""
    with ThreadPoolExecutor(NUM_CALLERS) as callers:
        jobs = list(callers.map(lambda seed: _submit(http, seed, wait=0), range(NUM_JOBS)))
    ended = [_ended(http, job["id"]) for job in jobs]
    created, started, finished = (
        sorted(datetime.fromisoformat(job[name]).timestamp() for job in ended)
        for name in ("created_at", "started_at", "finished_at")
    )
    computing = sum(_overhead(http, job)["computing"] for job in ended)
    return {
        "submissions_per_second": NUM_JOBS / (created[-1] - created[0]),
        "jobs_per_second": NUM_JOBS / (finished[-1] - started[0]),
        "overhead_seconds": (finished[-1] - started[0] - computing) / NUM_JOBS,
    }


def _ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).raise_for_status().json()
        if job["state"] == "succeeded":
            return job
        if job["state"] not in ("queued", "running"):
            raise RuntimeError(f"a job ended as {job['state']}: {job['error']}")


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def measured() -> dict[str, Any]:
    """Both ways, with one worker."""
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-overhead-") as directory,
        RunningStack(Path(directory) / "data", num_workers=1) as stack,
        httpx.Client(base_url=stack.url, timeout=60) as http,
    ):
        single, burst = one_at_a_time(http), at_once(http)
    quantiles = {
        stage: {name: quantile([each[stage] for each in single], share) for name, share in _SHARES.items()}
        for stage in [*_STAGES, "computing"]
    }
    return {"host": server_environment(), "num_jobs": NUM_JOBS, "one_at_a_time": quantiles, "at_once": burst}


_SHARES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


def _rows(report: dict[str, Any]) -> Iterator[str]:
    for stage, meaning in [*_STAGES.items(), ("computing", "computing")]:
        numbers = report["one_at_a_time"][stage]
        yield f"| {meaning} | " + " | ".join(f"{1e3 * numbers[name]:.1f} ms" for name in _SHARES) + " |"


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    median, burst = report["one_at_a_time"]["total"]["median"], report["at_once"]
    reached = "reached" if median <= MAX_MEDIAN_SECONDS else "missed"
    lines = [
        "# What a job costs in addition to its computation",
        "",
        server_line(report["host"]),
        "",
        f"{report['num_jobs']} jobs, one at a time, one worker:",
        "",
        "| | median | 90 % | 99 % |",
        "|---|---|---|---|",
        *_rows(report),
        "",
        f"Goal: a median of at most {1e3 * MAX_MEDIAN_SECONDS:.0f} ms from accepted to done: {reached}.",
        "",
        f"{report['num_jobs']} jobs at once: {burst['submissions_per_second']:.0f} accepted and "
        f"{burst['jobs_per_second']:.1f} done per second; in addition to its computation, each took "
        f"{1e3 * burst['overhead_seconds']:.1f} ms of the worker.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_overhead", description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/job_overhead.json and .md")
    arguments = parser.parse_args()
    report = measured()
    if arguments.save:
        (RESULTS / "job_overhead.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "job_overhead.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
