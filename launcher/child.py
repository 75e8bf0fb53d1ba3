"""A child process that is restarted when it dies and takes all of its own children along when it stops."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_QUICK_DEATH_SECONDS = 5.0
_MAX_QUICK_DEATHS = 5
_MAX_PAUSE_SECONDS = 5.0


class ChildKeepsDyingError(Exception):
    """A child that a new start does not help: it refused its settings, or died several times right after its start."""


class Child:
    """One command in a session of its own.

    Args:
        name: for messages.
        command, environment: what is started.
        descriptors: stay open in the child.
        log: file that the child's output is appended to; None: this process's own output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
        log: Path | None = None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._descriptors = tuple(descriptors)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._quick_deaths = 0
        self._restart_at = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the command."""
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

    def revive(self) -> bool:
        """Start the command again if it died, after a pause that grows; True if it did.

        Raises:  ChildKeepsDyingError.
        """
        if self._process is None or self._process.poll() is None:
            return False
        now = time.monotonic()
        if not self._restart_at:
            self._kill_group()
            if self._process.returncode == os.EX_CONFIG:
                raise ChildKeepsDyingError(f"{self.name} cannot start with these settings")
            quick = now - self._started_at < _QUICK_DEATH_SECONDS
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            if self._quick_deaths >= _MAX_QUICK_DEATHS:
                raise ChildKeepsDyingError(f"{self.name} died {self._quick_deaths} times right after its start")
            self._restart_at = now + min(_MAX_PAUSE_SECONDS, 0.1 * 2**self._quick_deaths)
        if now < self._restart_at:
            return False
        self._restart_at = 0.0
        self.start()
        return True

    def terminate(self) -> None:
        """Ask the command to stop."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait until this time of the monotonic clock, then kill what is left of the session."""
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
