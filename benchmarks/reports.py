"""Options that the measuring programs share, and where their numbers go."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.problems import PRECISIONS, Problem, make_problem
from benchmarks.timing import CLOCKS

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Goal:
    """What the ratio of two times should be; no bound: it is only told."""

    slower: str
    faster: str
    bound: float | None = None
    at_most: bool = True

    def ratio(self, rounds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """The median of the ratios of every round, and the goal beside it.

        The two times of one round are a second apart: what else the machine does slows both.
        """
        value = median(map(truediv, rounds[self.slower], rounds[self.faster]))
        if self.bound is None:
            return {"value": value, "goal": None, "reached": None}
        reached = value <= self.bound if self.at_most else value >= self.bound
        return {"value": value, "goal": f"at {'most' if self.at_most else 'least'} {self.bound}", "reached": reached}


def ratios(goals: list[Goal], rounds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of those goals whose times were measured, as "slower / faster"."""
    known = [goal for goal in goals if goal.slower in rounds and goal.faster in rounds]
    return {f"{goal.slower} / {goal.faster}": goal.ratio(rounds) for goal in known}


def ratio_lines(found: Mapping[str, Any]) -> list[str]:
    """A table of `ratios`."""
    lines = ["| ratio | value | goal | reached |", "|---|---|---|---|"]
    for name, each in found.items():
        reached = "" if each["reached"] is None else "yes" if each["reached"] else "no"
        lines.append(f"| {name} | {each['value']:.2f} | {each['goal'] or ''} | {reached} |")
    return lines


def options(program: str, description: str | None, problems: list[str], *, precision: str) -> argparse.ArgumentParser:
    """Problem, rounds, device, threads, precision, clock and output."""
    parser = common_options(program, description, problems)
    parser.add_argument("--precision", choices=PRECISIONS, default=precision)
    return parser


def common_options(program: str, description: str | None, problems: list[str]) -> argparse.ArgumentParser:
    """The same without precision."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    parser.add_argument("--problem", choices=problems, default=problems[0])
    parser.add_argument("--rounds", type=int, help="number of calls of each; the medians are reported")
    parser.add_argument("--device", default="cpu", help="device, by torch's name: cpu, cuda")
    parser.add_argument("--threads", type=int, help="threads of torch; default: all cores")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, which hardly depends on other load"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--save", action="store_true", help=f"write {RESULTS.name}/{program}-PROBLEM-DEVICE.json and .md"
    )
    return parser


def chosen_problem(arguments: argparse.Namespace) -> Problem:
    """What the options name, with torch told how many threads to use."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return make_problem(arguments.problem, torch.device(arguments.device), PRECISIONS[arguments.precision])


def stem(arguments: argparse.Namespace, program: str) -> str:
    """Name of the files for one problem on one device."""
    return f"{program}-{arguments.problem}-{torch.device(arguments.device).type}"


def publish(arguments: argparse.Namespace, name: str, report: Mapping[str, Any], *, table: str) -> None:
    """Print, and with --save keep the numbers beside the code."""
    document = json.dumps(report, indent=1) + "\n"
    if arguments.save:
        (RESULTS / f"{name}.json").write_text(document)
        (RESULTS / f"{name}.md").write_text(table)
    print(document if arguments.json else table, end="")


@contextmanager
def new_compilations() -> Iterator[None]:
    """Nothing compiled before is found again, except by the processes started within."""
    with TemporaryDirectory() as folder:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
