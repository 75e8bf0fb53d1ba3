"""The whole server as its users start it, for programs that measure or disturb it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import redis

from benchmarks.processes import command_line, descendants
from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.launcher.embedded_redis import USER

HOST = "127.0.0.1"
START_SECONDS = 150


class RunningStack:
    """`spectrum-server up` with its embedded Redis, in a process of its own on a port of this machine.

    Args:
        data_directory: Made if missing.
        num_workers: Jobs at once; settings, variables of the environment.
    Attributes:  url and port of the service; log, the file that all processes write to, also those of later starts.
    """

    def __init__(self, data_directory: Path, num_workers: int, **settings: str) -> None:
        self.data_directory, self.log = data_directory, data_directory.with_suffix(".log")
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        arguments = ["--port", str(self.port), "--data-dir", str(data_directory), "--workers", str(num_workers)]
        self._command = [str(Path(sys.executable).with_name("spectrum-server")), "up", *arguments]
        self._environment = os.environ | settings
        self._process: subprocess.Popen[bytes] | None = None

    def of_build(self, bin_directory: Path) -> Self:
        """The same stack with the programs of another build."""
        self._command[0] = str(bin_directory / "spectrum-server")
        return self

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the launcher."""
        if self._process is None:
            raise RuntimeError("the stack was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the launcher has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, also once more after everything was killed, and wait until jobs are served."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start without waiting."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._environment
            )

    def wait_until_ready(self) -> None:
        """Raises:  RuntimeError if that takes minutes, or the launcher has ended."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/v1/health/ready", timeout=5).is_success:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the stack is not ready; see {self.log}")

    def stop(self) -> None:
        """Ask the launcher to stop, as a user does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def wait(self) -> None:
        """Wait for the end of a launcher that was killed."""
        if self._process is not None:
            self._process.wait(30)

    def pids(self, words: str = "") -> list[int]:
        """Processes below the launcher whose command line holds the words, parents before their children."""
        return [pid for pid in descendants(self.pid) if words in command_line(pid)]

    def redis_url(self) -> str:
        """Of the embedded server, password included."""
        configuration = (self.data_directory / "redis" / "redis.conf").read_text()
        password = configuration.split(f"user {USER} on >")[1].split()[0]
        return f"unix://{USER}:{password}@{self.data_directory}/redis/run/redis.sock?db=0"

    def redis(self) -> redis.Redis:
        """A client of the embedded server."""
        return connect(self.redis_url(), patient=True)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
