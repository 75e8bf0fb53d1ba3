"""A process that is restarted when it dies, and the external conditions that keep it from running."""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_QUICK_DEATH_SECONDS = 5.0
_MAX_QUICK_DEATHS = 5
_MAX_PAUSE_SECONDS = 5.0
_FIRST_OBSTACLE_PAUSE_SECONDS, _MAX_OBSTACLE_PAUSE_SECONDS = 1.0, 30.0
_PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE),
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    }
)
"""Errors of a start that may pass: of a disk, of memory, or a limit of the system."""

_NEEDED_BYTES = 4 * 2**20
"""Free space that exceeds what Redis writes at once, except for the largest requests."""

_KILLED = "it was killed, as the system does where memory is short"


class CrashLoopError(Exception):
    """The process cannot run: it rejected its settings, or died several times right after its start."""


class ManagedProcess:
    """A command in its own session, restarted when it dies.

    Args:
        name: Name of the process, for messages.
        command: Command with its arguments.
        environment: Environment variables of the process.
        descriptors: Descriptors that stay open in the process.
        log: File to which the process's output is appended; None uses the output of this process.
        prepare: Called before each start.
        obstacle: Returns what prevents the command from running, in words, or None. While there is an obstacle, the
            process is not given up, however often it dies.

    Attributes:
        name: Name of the process.
        obstacle: What prevents the process from running now; None if nothing does.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        descriptors: Sequence[int] = (),
        log: Path | None = None,
        prepare: Callable[[], None] = lambda: None,
        obstacle: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._descriptors = tuple(descriptors)
        self._log = log
        self._prepare = prepare
        self._find_obstacle = obstacle
        self.obstacle: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._quick_deaths = 0
        self._next_start: float | None = None
        self._obstacle_pause = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the command; if that is impossible for now, `obstacle` says why, and `restart` tries again.

        Raises:
            CrashLoopError: If the command cannot be started at all.
        """
        self._next_start = None
        try:
            self._prepare()
            self._launch()
        except OSError as error:
            if error.errno not in _PASSING:
                raise CrashLoopError(f"{self.name} cannot be started: {error}") from None
            self._put_off(error.strerror or str(error))
        else:
            self.obstacle = None

    def restart(self) -> str | None:
        """Start the command again if it has died, after a growing pause.

        Returns:
            A sentence to report; None if nothing happened.

        Raises:
            CrashLoopError: If the process dies again and again right after its start.
        """
        if self._next_start is None:
            if self._process is None or self._process.poll() is None:
                return None
            return self._died(self._process.returncode)
        if time.monotonic() < self._next_start:
            return None
        if obstacle := self._find_obstacle():
            return self._put_off(obstacle)
        self.start()
        return self._waiting() if self.obstacle else f"{self.name} died and was started again (process {self.pid})"

    def _died(self, status: int) -> str | None:
        self._kill_group()
        if status == os.EX_CONFIG:
            raise CrashLoopError(f"{self.name} cannot start with these settings")
        quick = time.monotonic() - self._started_at < _QUICK_DEATH_SECONDS
        if not quick:
            self._obstacle_pause = 0.0
        if obstacle := self._find_obstacle() or (_KILLED if quick and status == -signal.SIGKILL else None):
            return self._put_off(obstacle)
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        if self._quick_deaths >= _MAX_QUICK_DEATHS:
            raise CrashLoopError(f"{self.name} died {self._quick_deaths} times right after its start")
        self._next_start = time.monotonic() + min(_MAX_PAUSE_SECONDS, 0.1 * 2**self._quick_deaths)
        return None

    def _put_off(self, obstacle: str) -> str:
        self.obstacle = obstacle
        self._obstacle_pause = min(
            _MAX_OBSTACLE_PAUSE_SECONDS, max(_FIRST_OBSTACLE_PAUSE_SECONDS, 2 * self._obstacle_pause)
        )
        self._next_start = time.monotonic() + self._obstacle_pause
        return self._waiting()

    def _waiting(self) -> str:
        return f"{self.name} cannot run: {self.obstacle}; the next try is in {self._obstacle_pause:.0f} s"

    def _launch(self) -> None:
        self._started_at = time.monotonic()
        with contextlib.ExitStack() as files:
            output = files.enter_context(self._log.open("ab")) if self._log else None
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                pass_fds=self._descriptors,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call
            )

    def terminate(self) -> None:
        """Ask the command to stop."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait until the given time of the monotonic clock, then kill the rest of the session."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._kill_group()
        self._process.wait()

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def disk_obstacle(directory: Path) -> str | None:
    """Return why files in the directory cannot be written; None if they can."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_NEEDED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}"
    return None


def port_obstacle(host: str, port: int) -> str | None:
    """Return why no process can listen at the address; None if one can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return None
