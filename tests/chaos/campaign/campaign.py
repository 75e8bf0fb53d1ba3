"""One campaign: a stack, its customers, the faults, and the count at the end."""

import contextlib
import datetime
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environment import server_environment, server_line
from benchmarks.processes import is_alive
from benchmarks.stack import RunningStack
from tests.chaos.campaign.attempts import Attempts, Overlap, overlaps, unlawful_ends
from tests.chaos.campaign.clients import Customers, known_jobs, undisturbed
from tests.chaos.campaign.faults import SETTINGS, Fault, Killer
from tests.chaos.campaign.leak_checks import leftovers, removed_later
from tests.chaos.campaign.workload import requests

NUM_WORKERS, NUM_CUSTOMERS = 2, 5
RECOVERY_SECONDS = 120.0
MOMENT_SECONDS = (0.2, 1.5)
"""Between the end of one cycle and the next fault."""
OVERLAP_SECONDS = 1.0
"""Within which an attempt that lost its lease hears of it: two signs of life and a product."""


@dataclass
class Report:
    """What a campaign did and found."""

    command: str
    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    most_attempts: int = 0
    removed_later: str = ""
    recoveries: list[float] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.wrong or self.twice or self.left)

    def table(self) -> str:
        """All of it as Markdown."""
        longest = max((each.seconds for each in self.overlaps), default=0.0)
        slowest = max(self.recoveries, default=0.0)
        rows = {
            "machine": server_line(server_environment()),
            "command, seed": f"`{self.command}`, {self.seed}",
            "faults": f"{self.faults.total()} in {self.seconds:.0f} s: {_listed(self.faults)}",
            "recovered after": f"median {_middle(self.recoveries):.1f} s, at most {slowest:.1f} s",
            "jobs": f"{self.states.total()}: {_listed(self.states)}; {_listed(self.counts)}",
            "attempts": f"{self.attempts}, of one job at most {self.most_attempts}",
            "lost": str(len(self.lost)),
            "wrong": str(len(self.wrong)),
            "run twice at once": str(len(self.twice)),
            "attempts that computed on after losing their lease": f"{len(self.overlaps)}, at most {longest:.2f} s",
            "left behind": f"{len(self.left)}; to be removed later: {self.removed_later}",
        }
        lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
        faults = [f"- {text}" for text in [*self.lost, *self.wrong, *self.twice, *self.left]]
        return "\n".join([*lines, *faults])


def run_campaign(directory: Path, faults: Sequence[Fault], seed: int, *, min_jobs: int = 0) -> Report:
    """Disturb a server, by one fault after the other, while customers use it."""
    report = Report(_command(), seed)
    stack = RunningStack(directory / "data", NUM_WORKERS, **SETTINGS)
    with stack:
        say(f"seed {seed}, log {stack.log}")
        right = undisturbed(stack.url, requests(), say)
        before = known_jobs(stack.url)
        attempts, customers = Attempts(stack.log), Customers(stack.url, requests(), right, seed=seed)
        customers.start(NUM_CUSTOMERS)
        killer = Killer(stack, random.Random(seed))
        started = time.monotonic()
        try:
            _disturb(killer, customers, faults, report=report)
            while customers.num_ended < min_jobs and not customers.faults:
                time.sleep(0.2)
        except RuntimeError as error:  # the server did not recover: what was counted until then is told
            report.lost.append(str(error))
        finally:
            customers.leave()
        report.seconds = time.monotonic() - started
        _count(report, stack, customers, before=before)
        _judge(report, attempts, killer)
        pids = stack.pids()
    report.left += [f"process {pid}" for pid in pids if is_alive(pid)]
    return report


def say(text: str) -> None:
    """One line of progress."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def _disturb(killer: Killer, customers: Customers, faults: Sequence[Fault], *, report: Report) -> None:
    for cycle, fault in enumerate(faults, 1):
        time.sleep(killer.chance.uniform(*MOMENT_SECONDS))
        name, ended = fault.__name__, customers.num_ended
        say(f"cycle {cycle}: {name}, {ended} jobs ended, {len(customers.faults)} wrong")
        fault(killer)
        report.faults[name] += 1
        with _timed(report.recoveries):
            killer.stack.wait_until_ready()
            _wait_for_more(customers, ended + 2)
        before = customers.known()
        missing = (before - known_jobs(killer.stack.url)) & customers.known()
        report.lost += [f"job {job_id} is not known after {name} of cycle {cycle}" for job_id in missing]


@contextlib.contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds.append(time.monotonic() - started)


def _wait_for_more(customers: Customers, wanted: int) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while customers.num_ended < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no job has ended for {RECOVERY_SECONDS:.0f} s: {customers.faults}")
        time.sleep(0.05)


def _count(report: Report, stack: RunningStack, customers: Customers, *, before: set[str]) -> None:
    known = known_jobs(stack.url)
    wanted = customers.known() | before
    report.lost += [f"job {job_id} is not known at the end" for job_id in wanted - known]
    report.twice += [f"job {job_id} was accepted twice or never asked for" for job_id in known - wanted]
    report.wrong += customers.faults
    report.counts = customers.counts
    report.states = Counter(order.state or "unknown" for order in customers.orders)
    report.attempts = sum(order.attempts for order in customers.orders)
    report.most_attempts = max((order.attempts for order in customers.orders), default=0)
    with stack.redis() as client:
        report.left += leftovers(client, stack.data_directory / "results", wanted)
        report.removed_later = removed_later(client, stack.data_directory / "results", wanted)


def _judge(report: Report, attempts: Attempts, killer: Killer) -> None:
    found = attempts.close()
    report.overlaps = overlaps(found, killer.pauses)
    report.twice += [f"{each}" for each in report.overlaps if each.seconds > OVERLAP_SECONDS]
    report.twice += unlawful_ends(found)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.most_common())


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _command() -> str:
    return " ".join(["python -m tests.chaos.campaign", *sys.argv[1:]])
