"""`python -m benchmarks.shards`: one long Lanczos job on one worker and on two, each with one thread."""

import argparse
import json
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.environment import server_environment, server_line
from benchmarks.stack import RunningStack
from hessian_spectrum.client.http import SpectrumClient

RESULTS = Path(__file__).parent / "results"
LENGTHS = 14, 42  # steps of a probe: about half a minute on one core, and two
NUM_PROBES, NUM_ROUNDS = 16, 3
LEAST_RATIO = 1.8
SETTINGS = {
    "SPECTRUM_NUM_THREADS": "1",
    # the same for one worker and for two, so that they plan alike; without room for a compiler, which would be measured
    "SPECTRUM_MEMORY_BYTES": str(2**29),
}


def job(num_steps: int, num_probes: int, seed: int) -> dict[str, Any]:
    """A density of a million parameters, whose products are large enough to keep a core busy."""
    return {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [64, 1024, 1024, 10]},
        "data": {"kind": "digits", "num_samples": 1024},
        "loss": "cross-entropy",
        "matrix": "ggn",
        "method": {"kind": "lanczos", "num_steps": num_steps, "num_probes": num_probes},
        "seed": seed,
    }


def measured(num_workers: int, lengths: list[int], num_probes: int, *, num_rounds: int) -> list[dict[str, Any]]:
    """For each length, seconds from claimed to done and what the results say; the first job is none of them."""
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-shards-") as directory,
        RunningStack(Path(directory) / "data", num_workers, **SETTINGS) as stack,
        SpectrumClient(stack.url) as client,
    ):
        client.run(job(2, 1, seed=num_rounds))
        return [_jobs(client, [job(length, num_probes, seed) for seed in range(num_rounds)]) for length in lengths]


def _jobs(client: SpectrumClient, requests: list[dict[str, Any]]) -> dict[str, Any]:
    seconds, results = [], []
    for request in requests:
        record = client.wait(client.submit(request).id, timeout_seconds=3600)
        if record.started_at is None or record.finished_at is None or record.state != "succeeded":
            raise RuntimeError(f"the job ended as {record.state}: {record.error}")
        seconds.append(_seconds_between(record.started_at, record.finished_at))
        results.append(client.result(record.id).model_dump(mode="json"))
    return {"seconds": seconds, "results": results}


def report_of(lengths: list[int], num_probes: int, num_rounds: int) -> dict[str, Any]:
    """Both numbers of workers, one after the other."""
    ones, twos = (measured(num_workers, lengths, num_probes, num_rounds=num_rounds) for num_workers in (1, 2))
    jobs = [_compared(length * num_probes, one, two) for length, one, two in zip(lengths, ones, twos, strict=True)]
    return {"host": server_environment(), "jobs": jobs}


def _compared(num_products: int, one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    origins = [result["provenance"] for result in two["results"]]
    return {
        "num_products": num_products,
        "num_shards": origins[0]["num_shards"],
        "num_workers": [origin["num_workers"] for origin in origins],
        "one_worker_seconds": one["seconds"],
        "two_workers_seconds": two["seconds"],
        "ratio": statistics.median(one["seconds"]) / statistics.median(two["seconds"]),
        "same_numbers": [_numbers(result) for result in one["results"]] == [_numbers(r) for r in two["results"]],
    }


def table(report: dict[str, Any]) -> str:
    """As Markdown; the longest job decides."""
    longest = report["jobs"][-1]
    is_same = all(each["same_numbers"] for each in report["jobs"])
    reached = "reached" if longest["ratio"] >= LEAST_RATIO and is_same else "missed"
    lines = [
        "# One job on two workers",
        "",
        server_line(report["host"]),
        "",
        "Products with a Gauss-Newton matrix of 1,126,410 parameters; each worker has one thread. "
        "Times from claimed to done: median (fastest to slowest):",
        "",
        "| products | shards | jobs | one worker | two workers | ratio |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each['num_products']} | {each['num_shards']} | {len(each['one_worker_seconds'])} | "
            f"{_range(each['one_worker_seconds'])} | {_range(each['two_workers_seconds'])} | {each['ratio']:.2f} |"
            for each in report["jobs"]
        ),
        "",
        f"Two workers give {'the same numbers as one, to the last bit' if is_same else 'other numbers than one'}. "
        f"Goal: {LEAST_RATIO} times as fast, with the same numbers: {reached} by the longest job.",
    ]
    return "\n".join(lines) + "\n"


def _range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


def _seconds_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result but who computed it, and how long that took."""
    beside = ("wall_time_seconds", "num_workers")
    origin = {name: value for name, value in result["provenance"].items() if name not in beside}
    return result | {"provenance": origin}


def main() -> None:
    """Measure, print, and with --save keep the numbers beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS, help="steps of each probe, longest job last")
    parser.add_argument("--probes", type=int, default=NUM_PROBES)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="jobs of each length; medians are compared")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/shards.json and .md")
    arguments = parser.parse_args()
    report = report_of(arguments.steps, arguments.probes, arguments.rounds)
    if arguments.save:
        (RESULTS / "shards.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "shards.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
