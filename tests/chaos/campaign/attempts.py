"""Who computed what and when, from the lines that workers log and from the deaths of their processes."""

import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import is_alive
from tests.chaos.campaign.faults import Pause

_POLL_SECONDS = 0.02


@dataclass
class Attempt:
    """A worker's time at a job, from its claim to its end or to its death; `state` as it says itself."""

    job_id: str
    number: int
    pid: int
    begun: float
    ended: float | None = None
    state: str = ""

    @property
    def closed_the_job(self) -> bool:
        """Whether it says that it wrote the end of the job."""
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def handed_over(self) -> bool:
        """Whether it wrote to the record as the holder of its lease at its end, and computed no more."""
        return self.closed_the_job or self.state == "queued"


class Attempts:
    """Follows a log while it grows."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = 0
        self._found: dict[tuple[str, int], Attempt] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> list[Attempt]:
        """All attempts, once nobody computes any more."""
        self._closing.set()
        self._thread.join()
        return list(self._found.values())

    def _follow(self) -> None:
        while not self._closing.is_set():
            self._read()
            now = time.time()
            for attempt in self._found.values():
                if attempt.ended is None and not is_alive(attempt.pid):
                    attempt.ended = now
            time.sleep(_POLL_SECONDS)
        self._read()

    def _read(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._position += len(whole) + len(newline)
        for line in whole.splitlines():
            if b'"event"' in line:
                self._note(json.loads(line))

    def _note(self, line: dict[str, Any]) -> None:
        at = datetime.fromisoformat(line["time"]).timestamp()
        if line["event"] == "claimed":
            place = (line["job_id"], line["attempt"])
            self._found[place] = Attempt(*place, line["pid"], at)
        elif line["event"] == "ended" and (attempt := self._found.get((line["job_id"], line["attempt"]))):
            attempt.ended, attempt.state = at, line["state"]


@dataclass(frozen=True)
class Overlap:
    """Two attempts at one job at the same time, of which the first had lost its lease."""

    job_id: str
    seconds: float
    attempts: tuple[int, int]


def overlaps(attempts: Iterable[Attempt], pauses: list[Pause]) -> list[Overlap]:
    """Where an attempt computed on after the next one began; the time that its process stood still does not count."""
    by_job: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_job[attempt.job_id].append(attempt)
    found: list[Overlap] = []
    for job_id, its_own in by_job.items():
        its_own.sort(key=lambda attempt: attempt.number)
        for earlier, later in itertools.pairwise(its_own):
            if earlier.ended is None or earlier.handed_over:
                continue
            end = earlier.ended if later.ended is None else min(earlier.ended, later.ended)
            seconds = end - later.begun
            for pause in pauses:
                if earlier.pid in pause.pids:
                    seconds -= max(0.0, min(end, pause.ended) - max(later.begun, pause.begun))
            if seconds > 0:
                found.append(Overlap(job_id, seconds, (earlier.number, later.number)))
    return found


def unlawful_ends(attempts: Iterable[Attempt]) -> list[str]:
    """Jobs that were closed twice, or by an attempt that was not the last."""
    closed: dict[str, list[int]] = defaultdict(list)
    last: dict[str, int] = {}
    for attempt in attempts:
        last[attempt.job_id] = max(attempt.number, last.get(attempt.job_id, 0))
        if attempt.closed_the_job:
            closed[attempt.job_id].append(attempt.number)
    return [
        f"job {job_id} was closed by attempts {numbers} of {last[job_id]}"
        for job_id, numbers in closed.items()
        if numbers != [last[job_id]]
    ]
