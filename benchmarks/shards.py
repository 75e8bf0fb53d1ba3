"""`python -m benchmarks.shards`: one long Lanczos job on one worker and on two, each with one thread."""

import argparse
import json
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.host import host, host_line
from benchmarks.stack import RunningStack
from client.http import SpectrumClient

RESULTS = Path(__file__).parent / "results"
NUM_STEPS, NUM_PROBES, NUM_ROUNDS = 14, 16, 3  # about half a minute on one core
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


def measured(num_workers: int, num_steps: int, num_probes: int, num_rounds: int) -> dict[str, Any]:
    """Seconds from claimed to done, and what the results say; the first job is none of them."""
    seconds, results = [], []
    with (
        tempfile.TemporaryDirectory(prefix="spectrum-shards-") as directory,
        RunningStack(Path(directory) / "data", num_workers, **SETTINGS) as stack,
        SpectrumClient(stack.url) as client,
    ):
        client.run(job(2, 1, seed=num_rounds))
        for seed in range(num_rounds):
            record = client.wait(client.submit(job(num_steps, num_probes, seed)).id, timeout_seconds=3600)
            if record.started_at is None or record.finished_at is None or record.state != "succeeded":
                raise RuntimeError(f"the job ended as {record.state}: {record.error}")
            seconds.append(_seconds_between(record.started_at, record.finished_at))
            results.append(client.result(record.id).model_dump(mode="json"))
    return {"seconds": seconds, "results": results}


def report_of(num_steps: int, num_probes: int, num_rounds: int) -> dict[str, Any]:
    """Both numbers of workers, one after the other."""
    one, two = (measured(num_workers, num_steps, num_probes, num_rounds) for num_workers in (1, 2))
    origin = two["results"][0]["provenance"]
    return {
        "host": host(),
        "num_products": num_steps * num_probes,
        "num_shards": origin["num_shards"],
        "num_workers": [result["provenance"]["num_workers"] for result in two["results"]],
        "one_worker_seconds": one["seconds"],
        "two_workers_seconds": two["seconds"],
        "ratio": statistics.median(one["seconds"]) / statistics.median(two["seconds"]),
        "same_numbers": [_numbers(result) for result in one["results"]] == [_numbers(r) for r in two["results"]],
    }


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    reached = "reached" if report["ratio"] >= LEAST_RATIO and report["same_numbers"] else "missed"
    rows = [
        f"| {name} | {statistics.median(times):.1f} s | {min(times):.1f} s | {max(times):.1f} s |"
        for name, times in (("one", report["one_worker_seconds"]), ("two", report["two_workers_seconds"]))
    ]
    lines = [
        "# One job on two workers",
        "",
        host_line(report["host"]),
        "",
        f"{report['num_products']} products with a Gauss-Newton matrix of 1,126,410 parameters, in "
        f"{report['num_shards']} shards; each worker has one thread. From claimed to done, "
        f"{len(report['one_worker_seconds'])} jobs each:",
        "",
        "| workers | median | fastest | slowest |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Two workers are {report['ratio']:.2f} times as fast, and their numbers "
        f"{'are those of one, to the last bit' if report['same_numbers'] else 'differ from those of one'}. "
        f"Goal: at least {LEAST_RATIO}, with the same numbers: {reached}.",
    ]
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of each probe")
    parser.add_argument("--probes", type=int, default=NUM_PROBES)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="jobs of each; the medians are compared")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/shards.json and .md")
    arguments = parser.parse_args()
    report = report_of(arguments.steps, arguments.probes, arguments.rounds)
    if arguments.save:
        (RESULTS / "shards.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "shards.md").write_text(table(report))
    print(table(report), end="")


if __name__ == "__main__":
    main()
