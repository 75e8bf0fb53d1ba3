"""Processes of jobs that run programs of users: a fresh one for each job, watched and ended from outside.

A process of the pool keeps what jobs leave behind: arrays, recorded products, threads of OpenMP. A program of a user
must meet none of this, and may end its process by a signal or hold the interpreter's lock for ever, so that no thread
in the same process can end it. Each process of the pool therefore forks a *starter* before its first job. The starter
has one thread and no data; it forks a process for each such job, and reports how that ended.
"""

import ctypes
import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.store import WORKERS_LOST
from hessian_spectrum.worker.failures import out_of_time
from hessian_spectrum.worker.hardware import CRASHES, killed_by_kernel, name_of_signal, num_oom_kills

SECONDS_BETWEEN_BEATS = 0.5
SECONDS_TO_END_ITSELF = 5.0
"""Seconds beyond the time limit in which the job's own thread may end the process, before it is killed from outside."""

UNCOUNTED_BYTES = 2**30
"""Memory that a process may reserve beyond the limit of its job: stacks of threads, and arrays it never writes to."""

_SECONDS_OF_KERNEL = 15.0
_PR_SET_PDEATHSIG = 1
_DESCRIPTORS = Path("/proc/self/fd")
_STATUS = Path("/proc/self/status")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How the process of a job ended.

    Attributes:
        exit_code: Its exit code; the number of the signal it died of, negated.
        killed_for: Why it was killed from outside: `time`, `silence` or nothing.
        has_kernel_killed: Whether the kernel killed a process for lack of memory shortly before.
    """

    exit_code: int
    killed_for: str = ""
    has_kernel_killed: bool = False

    @property
    def crash_signal(self) -> str | None:
        """Name of the signal, if the process caused it itself."""
        name = name_of_signal(-self.exit_code) if self.exit_code < 0 else ""
        return name if name in CRASHES else None

    def problem(self, limit_seconds: float) -> Problem | None:
        """Return the problem of a job that another attempt would not help."""
        if self.killed_for == "time":
            return out_of_time(limit_seconds).problem
        if self.exit_code == -signal.SIGKILL and self.has_kernel_killed and not self.killed_for:
            return killed_by_kernel()
        return None

    def last_problem(self) -> Problem | None:
        """Return the problem of a job that may lose no more processes; None if the process exited by itself."""
        if self.killed_for == "silence":
            detail = (
                "The process that ran the program stopped responding: one call of the program held the interpreter "
                "for too long. It was ended by signal 9 (SIGKILL)"
            )
        elif self.exit_code < 0:
            number = -self.exit_code
            detail = f"The process that ran the program ended by signal {number} ({name_of_signal(number)})"
        else:
            return None
        detail += ", and all attempts that a job may lose are used up. Other jobs were not affected."
        return WORKERS_LOST.model_copy(update={"detail": detail})


class ProgramProcesses:
    """Starts a process for each job that runs a program; one object for each process of the pool.

    Args:
        compute: Runs the job of an id, in the new process.
        memory_limit_bytes: Memory of a job on the CPU, beyond which the system refuses more; None: without limit.
        silent_seconds: Time without a sign of life after which a process is killed; less than a lease lasts, so that
            no second process has the job while the first one still computes.
    """

    def __init__(
        self, compute: Callable[[str], None], *, memory_limit_bytes: int | None, silent_seconds: float
    ) -> None:
        self._compute, self._memory_limit, self._silent_seconds = compute, memory_limit_bytes, silent_seconds
        self._control: Connection | None = None
        self._beats: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has a starter."""
        return self._control is not None

    def open(self) -> None:
        """Fork the starter; to be called before this process has threads, connections or data of jobs."""
        control, starters_end = multiprocessing.Pipe()
        beats, beating = multiprocessing.Pipe(duplex=False)
        parent = os.getpid()
        if os.fork() == 0:
            _die_with(parent)
            _close_others({starters_end.fileno(), beating.fileno()})
            self._start_until_closed(starters_end, beating)
        starters_end.close()
        beating.close()
        self._control, self._beats = control, beats

    def run(self, job_id: str, *, limit_seconds: float) -> Ending:
        """Run a job in a process of its own until it ends, or must be ended.

        Args:
            job_id: Id of the job.
            limit_seconds: Time limit of the job, which its process keeps by itself unless it hangs.

        Returns:
            How the process ended.

        Raises:
            EOFError: If the starter is gone; this process must be replaced.
        """
        assert self._control is not None
        assert self._beats is not None
        self._control.send_bytes(job_id.encode())
        pid = int(self._control.recv_bytes())
        watch = _Watch(limit_seconds + SECONDS_TO_END_ITSELF, self._silent_seconds)
        kills = deque([num_oom_kills()], maxlen=int(_SECONDS_OF_KERNEL / SECONDS_BETWEEN_BEATS))
        killed_for = ""
        while True:
            ready = multiprocessing.connection.wait([self._control, self._beats], SECONDS_BETWEEN_BEATS)
            if self._control in ready:
                exit_code = int(self._control.recv_bytes())
                self._drain()
                return Ending(exit_code, killed_for, num_oom_kills() > kills[0])
            kills.append(num_oom_kills())
            reason = watch.reason_to_kill(self._drain())
            if reason and not killed_for:
                killed_for = reason
                _logger.warning("the process of job %s is killed: %s", job_id, reason)
                os.kill(pid, signal.SIGKILL)

    def _drain(self) -> bool:
        """Take all signs of life; return whether there were any."""
        assert self._beats is not None
        found = False
        while self._beats.poll():
            self._beats.recv_bytes()
            found = True
        return found

    def _start_until_closed(self, control: Connection, beating: Connection) -> NoReturn:
        while True:
            try:
                job_id = control.recv_bytes().decode()
            except (EOFError, OSError):
                os._exit(os.EX_OK)
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                _die_with(parent)
                control.close()
                self._compute_and_exit(job_id, beating)
            control.send_bytes(str(pid).encode())
            _, status = os.waitpid(pid, 0)
            control.send_bytes(str(os.waitstatus_to_exitcode(status)).encode())

    def _compute_and_exit(self, job_id: str, beating: Connection) -> NoReturn:
        code = os.EX_SOFTWARE
        try:
            threading.Thread(target=_beat, args=(beating,), name="signs-of-life", daemon=True).start()
            _limit_memory(self._memory_limit)
            self._compute(job_id)
            code = os.EX_OK
        except BaseException:
            _logger.exception("the process of job %s ends", job_id)
        finally:
            logging.shutdown()
            os._exit(code)


class _Watch:
    """Decides when a process must be killed.

    Silence is counted in rounds of the watch rather than read from a clock: when the whole machine stood still, the
    watch did so, too.
    """

    def __init__(self, limit_seconds: float, silent_seconds: float) -> None:
        self._deadline = time.monotonic() + limit_seconds
        self._rounds = max(2, int(silent_seconds / SECONDS_BETWEEN_BEATS))
        self._num_silent = 0

    def reason_to_kill(self, is_alive: bool) -> str:
        """Return why the process must be killed, after a round with or without signs of life."""
        self._num_silent = 0 if is_alive else self._num_silent + 1
        if time.monotonic() > self._deadline:
            return "time"
        return "silence" if self._num_silent >= self._rounds else ""


def _beat(beating: Connection) -> None:
    while True:
        try:
            beating.send_bytes(b"1")
        except OSError:  # the process of the pool is gone
            os._exit(os.EX_TEMPFAIL)
        time.sleep(SECONDS_BETWEEN_BEATS)


def _die_with(parent: int) -> None:
    """Make the system kill this process when its parent dies, where it can; elsewhere closed pipes end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(os.EX_TEMPFAIL)


def _close_others(kept: set[int]) -> None:
    """Close pipes and sockets of the pool, whose ends tell the worker that a process of it died."""
    if not _DESCRIPTORS.is_dir():
        return
    for name in os.listdir(_DESCRIPTORS):
        number = int(name)
        try:
            is_channel = os.readlink(_DESCRIPTORS / name).startswith(("pipe:", "socket:", "anon_inode:"))
            if number > 2 and number not in kept and is_channel:
                os.close(number)
        except OSError:  # the descriptor of the listing itself
            continue


def _limit_memory(limit_bytes: int | None) -> None:
    """Limit the memory that this process may reserve, and write no image of it when it crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit_bytes is None or sys.platform != "linux":
        return
    reserved = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    total = 1024 * int(reserved.split()[1]) + limit_bytes + UNCOUNTED_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    total = total if hard == resource.RLIM_INFINITY else min(total, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (total, total))
