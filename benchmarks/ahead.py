"""`python -m benchmarks.ahead OLD`: what the same answers cost in this build and in the one of another checkout.

OLD is a folder with an earlier commit in which `make setup` was run. Every computation is a process of its own; both
builds take turns. The numbers of both must agree.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import ahead_service
from benchmarks.ahead_tasks import DENSITY_TASKS, TOP_K_TASKS
from benchmarks.environment import engine_environment, engine_line
from benchmarks.reports import RESULTS, publish

TASKS_FILE = Path(__file__).with_name("ahead_tasks.py")
TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Row:
    """What is compared.

    Attributes:
        title: What it is, for people.
        task: Its computation.
        quantity: `seconds`, `memory`, `products`, or the name of an error.
        goal: Largest value of this build, or largest ratio to the other one if `is_ratio`; None: there is no goal.
        is_ratio: What the goal is about.
        tolerance: Largest difference of the numbers, relative to the largest of them.
    """

    title: str
    task: str
    quantity: str
    goal: float | None
    is_ratio: bool
    tolerance: float


ROWS = [
    Row("exact Hessian, P = 6,010: peak memory / (8 P^2 bytes)", "exact", "memory", 1.15, False, 1e-13),
    Row("exact Hessian, P = 6,010: seconds", "exact", "seconds", None, True, 1e-13),
    Row("100 products of each block, gpt-small, Hessian", "blocks-hessian", "seconds", 0.55, True, 1e-4),
    Row("100 products of each block, gpt-small, GGN", "blocks-ggn", "seconds", 0.65, True, 1e-4),
    Row("100 products of each of 12 layers, Hessian", "layers-hessian", "seconds", 0.35, True, 1e-4),
    Row("100 products of each of 12 layers, GGN", "layers-ggn", "seconds", 0.35, True, 1e-4),
    *(
        Row(f"density of {'-'.join(map(str, widths))}, 120 products: {quantity}", task, quantity, goal, True, 1e-12)
        for task, widths in DENSITY_TASKS.items()
        for quantity, goal in (("trace", 1 / 8), ("wasserstein", 1 / 5), ("l1", 1 / 2))
    ),
    *(
        Row(f"top-{k}, {spectrum}, P = 10^6, tolerance {tolerance}: products", task, "products", 0.65, True, tolerance)
        for task, (spectrum, k, tolerance) in TOP_K_TASKS.items()
    ),
]


SERVICE = "service"
TITLES = [row.title for row in ROWS] + [row.title for row in ahead_service.ROWS]


def measure(old: Path, num_rounds: int, threads: int, *, only: Sequence[str]) -> list[dict[str, Any]]:
    """The rows whose tasks begin with one of these names, with the medians of both builds."""
    pythons = {"old": old / ".venv" / "bin" / "python", "new": Path(sys.executable)}
    rows = [row for row in ROWS if row.task.startswith(tuple(only))]
    tasks = dict.fromkeys(row.task for row in rows)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(num_rounds):
        for task in tasks:
            for build in sorted(pythons, reverse=bool(number % 2)):
                found.setdefault((task, build), []).append(_run(pythons[build], task, threads))
    compared = [_compared(row, found[row.task, "old"], found[row.task, "new"]) for row in rows]
    return compared + (ahead_service.measure(old) if SERVICE.startswith(tuple(only)) else [])


def with_earlier(rows: Sequence[dict[str, Any]], revision: str) -> list[dict[str, Any]]:
    """All rows that are known beside the same commit: these, and those that were saved earlier."""
    saved = RESULTS / "ahead.json"
    report = json.loads(saved.read_text()) if saved.exists() else {}
    known = {row["title"]: row for row in report.get("rows", []) if report["before"] == revision}
    known |= {row["title"]: row for row in rows}
    return [known[title] for title in TITLES if title in known]


def _run(python: Path, task: str, threads: int) -> dict[str, Any]:
    command = [str(python), "-W", "ignore", str(TASKS_FILE), task, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_SECONDS)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _compared(row: Row, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> dict[str, Any]:
    before, after = (median(each[row.quantity] for each in runs) for runs in (old, new))
    ratio = median(one[row.quantity] / other[row.quantity] for one, other in zip(new, old, strict=True))
    one, other = (np.asarray(runs[0]["numbers"]) for runs in (new, old))
    difference = float(np.abs(one - other).max() / np.abs(other).max())
    judged = ratio if row.is_ratio else after
    return {
        "title": row.title,
        "old": before,
        "new": after,
        "ratio": ratio,
        "goal": row.goal,
        "goal_is_ratio": row.is_ratio,
        "reached": None if row.goal is None else judged <= row.goal and difference <= row.tolerance,
        "difference": difference,
    }


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of the rows."""
    table = ["| what | before | now | now / before | goal | reached | difference / largest number |"]
    table.append("|---|---|---|---|---|---|---|")
    for row in rows:
        goal = "" if row["goal"] is None else f"{'ratio' if row['goal_is_ratio'] else 'now'} at most {row['goal']:.3g}"
        reached = "" if row["reached"] is None else "yes" if row["reached"] else "no"
        numbers = f"{row['old']:.3g} | {row['new']:.3g} | {row['ratio']:.2f}"
        difference = "" if row["difference"] is None else f"{row['difference']:.0e}"
        table.append(f"| {row['title']} | {numbers} | {goal} | {reached} | {difference} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old", type=Path, help="checkout of an earlier commit, with its .venv")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TASK", help=f"beginnings of tasks' names, or {SERVICE}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/ahead.json and .md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    old = arguments.old.resolve()
    rows = measure(old, arguments.rounds, arguments.threads, only=arguments.only)
    revision = subprocess.check_output(["git", "-C", str(old), "rev-parse", "--short", "HEAD"], text=True).strip()
    if arguments.save:
        rows = with_earlier(rows, revision)
    report = engine_environment(torch.device("cpu"), "wall") | {"before": revision, "rows": rows}
    head = ["# Less work for the same answer", "", f"{engine_line(report)} Before: commit {report['before']}.", ""]
    publish(arguments, "ahead", report, table="\n".join([*head, *lines(rows)]) + "\n")


if __name__ == "__main__":
    main()
