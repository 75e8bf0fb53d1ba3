"""Redis, worker and service as children of this process."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from hessian_spectrum.launcher.data_directory import DataDirectory
from hessian_spectrum.launcher.embedded_redis import EmbeddedRedis
from hessian_spectrum.launcher.managed_process import ManagedProcess, disk_obstacle, port_obstacle

REDIS_VARIABLE = "SPECTRUM_REDIS_URL"
START_SECONDS = 120.0
_REDIS_START_SECONDS = 30.0
_EXTERNAL_REDIS_SECONDS = 10.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 4.0
"""Timeout of the service's answer, which itself waits for an unresponsive Redis."""

_PATIENCE_SECONDS = 20.0
"""Time after which missing parts are reported; a worker takes that long to load its libraries."""

_STOP_SECONDS, _REDIS_STOP_SECONDS = 6.0, 2.5


class StackError(Exception):
    """The stack cannot start."""


class Stack:
    """The whole server on one machine.

    Args:
        host: Address of the HTTP service.
        port: Port of the HTTP service.
        data_directory: Directory of everything that outlives the stack.
        num_workers: Number of jobs computed at once.
        log: File for the children's output; None uses the output of this process.
        models_directory: Directory of checkpoints; None means that in the data directory.
        keys_file: File of the API keys; None means that in the data directory.
        insecure: Whether to serve without API keys even if others can connect.

    Raises:
        StackError: If the port cannot be used.
        DataDirectoryError: If the data directory cannot be used.
        NoRedisServerError: If there is no Redis server to start.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        data_directory: Path,
        num_workers: int,
        log: Path | None = None,
        models_directory: Path | None = None,
        keys_file: Path | None = None,
        insecure: bool = False,
    ) -> None:
        if obstacle := port_obstacle(host, port):
            raise StackError(obstacle)
        self._data = DataDirectory(data_directory)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._health_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self._port = port
        external_url = os.environ.get(REDIS_VARIABLE)
        self._redis = None if external_url else EmbeddedRedis(self._data)
        environment = os.environ | {
            REDIS_VARIABLE: external_url or (self._redis.url if self._redis else ""),
            "SPECTRUM_RESULTS_DIR": str(self._data.results),
            "SPECTRUM_MODELS_DIR": str((models_directory or self._data.models).resolve()),
            "SPECTRUM_KEYS_FILE": str((keys_file or self._data.keys).resolve()),
            "SPECTRUM_INSECURE": str(insecure),
            # Celery takes SIGTERM as a wish to finish its jobs first, SIGQUIT as one to stop.
            "REMAP_SIGTERM": "SIGQUIT",
        }
        worker_environment = environment | {"SPECTRUM_CONCURRENCY": str(num_workers)}
        service = [sys.executable, "-P", "-m", "hessian_spectrum.service", "--host", host, "--port", str(port)]
        self._children = [
            ManagedProcess(
                "worker",
                [sys.executable, "-P", "-m", "hessian_spectrum.worker"],
                worker_environment,
                log=log,
                obstacle=lambda: disk_obstacle(self._data.results),
            ),
            ManagedProcess("service", service, environment, log=log, obstacle=lambda: port_obstacle(host, port)),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, stop: threading.Event, report: Callable[[str], None] = lambda _: None) -> list[str]:
        """Start everything and wait until jobs are served, or until `stop` is set.

        If something external prevents jobs from being served, such as a full disk, closed forms are served anyway, and
        jobs as soon as the obstacle is gone.

        Args:
            stop: Ends the wait when set.
            report: Receives messages about what is missing.

        Returns:
            What jobs still lack, in words; empty if jobs are served.

        Raises:
            StackError: If a part is not ready in time.
            CrashLoopError: If a process dies again and again right after its start.
        """
        if self._redis is not None:
            redis = self._redis
            redis.process.start()
            self._start_children()  # which load their libraries meanwhile
            self._wait_for(
                lambda: redis.answers() or bool(redis.process.obstacle),
                stop,
                seconds=_REDIS_START_SECONDS,
                what="Redis",
            )
        else:
            what = f"the Redis of {REDIS_VARIABLE}"
            self._wait_for(_external_redis_listens, stop, seconds=_EXTERNAL_REDIS_SECONDS, what=what)
            self._start_children()
        return self._wait_until_ready(stop, report)

    def _start_children(self) -> None:
        for child in self._children:
            child.start()

    def supervise(self, stop: threading.Event, report: Callable[[str], None]) -> None:
        """Restart children that die until `stop` is set.

        Args:
            stop: Ends the supervision when set.
            report: Receives messages about restarts.

        Raises:
            CrashLoopError: If a process dies again and again right after its start.
        """
        while not stop.wait(_POLL_SECONDS):
            self._restart(report)

    def stop(self) -> None:
        """Stop every child within ten seconds, Redis last, and release the data directory."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            child.wait(deadline)
        if self._redis is not None:
            self._redis.process.terminate()
            self._redis.process.wait(time.monotonic() + _REDIS_STOP_SECONDS)
            self._redis.remove_socket()
        self._data.release()

    def pids(self) -> dict[str, int | None]:
        """Process ids of the children by name."""
        return {child.name: child.pid for child in self._all()}

    def _all(self) -> list[ManagedProcess]:
        return ([self._redis.process] if self._redis else []) + self._children

    def _restart(self, report: Callable[[str], None]) -> None:
        for child in self._all():
            if message := child.restart():
                report(message)

    def _wait_for(self, condition: Callable[[], bool], stop: threading.Event, *, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not stop.is_set() and not condition():
            self._restart(lambda _: None)
            if time.monotonic() > deadline:
                raise StackError(f"{what} was not ready after {seconds:.0f} s")
            stop.wait(_POLL_SECONDS)

    def _wait_until_ready(self, stop: threading.Event, report: Callable[[str], None]) -> list[str]:
        started, reported = time.monotonic(), None
        while not stop.is_set() and (missing := self._missing()) != []:
            self._restart(report)
            seconds = time.monotonic() - started
            if missing and (seconds > START_SECONDS or any(child.obstacle for child in self._all())):
                return missing
            if seconds > START_SECONDS:
                raise StackError(f"the service was not ready after {START_SECONDS:.0f} s")
            if missing and seconds > _PATIENCE_SECONDS and missing != reported:
                report(f"not ready yet: {'; '.join(missing)}")
                reported = missing
            stop.wait(_POLL_SECONDS)
        return []

    def _missing(self) -> list[str] | None:
        """Return what is missing for jobs to run, according to the service; None if it does not answer."""
        # Without an HTTP library, which takes memory for as long as the launcher runs.
        connection = HTTPConnection(self._health_host, self._port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", "/v1/health/ready")
            answer = connection.getresponse()
            content = answer.read()
            return [] if answer.status == HTTPStatus.OK else [str(each) for each in json.loads(content)["missing"]]
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            return None
        finally:
            connection.close()


def _external_redis_listens() -> bool:
    """Return whether something listens at the address; service and worker themselves report if they are refused."""
    try:
        parts = urlsplit(os.environ[REDIS_VARIABLE])
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(parts.path)
        else:
            socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=2.0).close()
    except (OSError, ValueError):
        return False
    return True
