"""Watches the memory of the process of a job, and ends it before the machine runs out of memory."""

import contextvars
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.plans import gibibytes

SECONDS_BETWEEN_CHECKS = 0.1
SECONDS_TO_REPORT = 5.0
"""Time to write the failure, during which memory may still grow."""

SECONDS_BETWEEN_COUNTS = 5.0
_COUNTS_KEPT = 3

_STATUS = Path("/proc/self/status")
_PRIVATE = re.compile(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)
_VMSTAT = Path("/proc/vmstat")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_OOM_SCORE = Path("/proc/self/oom_score_adj")

_logger = logging.getLogger(__name__)


class MemoryGuard:
    """A thread that ends this process when it has grown by more than a limit since the guard was made.

    What counts is private memory, resident or swapped out: pages of libraries and of mapped files do not. A computation
    is not asked to stop first, as what it took would come back to the machine only in part.

    Args:
        limit_bytes: None: without limit.
        fail: Told the problem before the process ends.
    """

    def __init__(self, limit_bytes: int | None, fail: Callable[[Problem], object]) -> None:
        self._limit, self._fail = limit_bytes, fail
        self._before = private_bytes()
        self._closed = threading.Event()
        context = contextvars.copy_context()  # so that the thread's lines name the job, too
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="memory-guard", daemon=True)

    def __enter__(self) -> Self:
        if self._limit is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._limit is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_CHECKS):
            taken = private_bytes() - self._before
            if self._limit is not None and taken > self._limit:
                self._end(taken, self._limit)

    def _end(self, taken: int, limit: int) -> None:
        threading.Thread(target=self._end_later, name="memory-guard-end", daemon=True).start()
        try:
            self._fail(memory_limit_exceeded(taken, limit))
        except Exception:  # the process ends whatever happens here
            _logger.exception("the end of a job could not be written")
        fields = {"event": "ended", "state": "failed"}
        _logger.warning("the job took %s: its process ends", gibibytes(taken), extra=fields)
        os._exit(os.EX_TEMPFAIL)

    def _end_later(self) -> None:
        threading.Event().wait(SECONDS_TO_REPORT)
        os._exit(os.EX_TEMPFAIL)


def memory_limit_exceeded(taken: int, limit: int) -> Problem:
    """Return the problem of a job that took more memory than its limit."""
    return Problem(
        type="/problems/memory-limit",
        title="The job outgrew its memory",
        status=507,
        detail=f"It had taken {gibibytes(taken)} when it was ended; the limit of one job on this worker is "
        f"{gibibytes(limit)}.",
    )


def killed_by_kernel() -> Problem:
    """Return the problem of a job whose process the kernel killed."""
    return Problem(
        type="/problems/out-of-memory",
        title="The worker ran out of memory",
        status=507,
        detail="The machine, or the worker's container, had no memory left, and the kernel killed the process that "
        "computed this job.",
    )


def private_bytes() -> int:
    """Memory of this process alone; 0 where the system does not tell."""
    try:
        return sum(1024 * int(kibibytes) for kibibytes in _PRIVATE.findall(_STATUS.read_text()))
    except OSError:
        return 0


def num_oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it started; 0 where it does not tell."""
    try:
        found = _OOM_KILLS.search(_VMSTAT.read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


class KernelWatch:
    """Tells whether the kernel has killed any process of the machine within the last seconds, by counts of a thread."""

    def __init__(self) -> None:
        self._counts = deque([num_oom_kills()], maxlen=_COUNTS_KEPT)
        self._thread = threading.Thread(target=self._count, name="kernel-watch", daemon=True)

    def start(self) -> None:
        """Begin to count; once, in the process that asks."""
        self._thread.start()

    def has_killed(self) -> bool:
        """Whether it has; where the machine stood still meanwhile, also longer ago."""
        return num_oom_kills() > self._counts[0]

    def _count(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_COUNTS)
            self._counts.append(num_oom_kills())


def be_killed_first() -> None:
    """Let the kernel, when it must, kill this process rather than the worker, the service or Redis."""
    try:
        _OOM_SCORE.write_text("1000")
    except OSError as error:
        _logger.warning("oom_score_adj: %s", error)
