"""Redis, worker and service as children of this process."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

from hessian_spectrum.launcher.child import Child
from hessian_spectrum.launcher.data_directory import DataDirectory
from hessian_spectrum.launcher.embedded_redis import EmbeddedRedis
from hessian_spectrum.launcher.obstacles import disk_obstacle, port_obstacle

REDIS_VARIABLE = "SPECTRUM_REDIS_URL"
START_SECONDS = 120.0
_REDIS_START_SECONDS = 30.0
_EXTERNAL_REDIS_SECONDS = 10.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 4.0
"""Of the service, which itself waits for a Redis that is silent."""

_PATIENCE_SECONDS = 20.0
"""After which it is said what is waited for: a worker that loads its libraries takes that long."""

_STOP_SECONDS, _REDIS_STOP_SECONDS = 6.0, 2.5


class StackError(Exception):
    """The stack cannot start."""


class Stack:
    """The whole server on one machine.

    Args:
        host: And port of the HTTP service; data directory; number of jobs at once; file for the children's output;
            models directory and file of the API keys, if they are not in the data directory; whether to serve without
            keys where others can connect.

    Raises:
        StackError: A process cannot be started.
        DataDirectoryError: The data directory cannot be used.
        NoRedisServerError: There is no Redis server to start.
    """

    def __init__(
        self,
        host: str,
        port: int,
        data_directory: Path,
        num_workers: int,
        log: Path | None = None,
        models_directory: Path | None = None,
        keys_file: Path | None = None,
        *,
        insecure: bool = False,
    ) -> None:
        if obstacle := port_obstacle(host, port):
            raise StackError(obstacle)
        self._data = DataDirectory(data_directory)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._health_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, self.url[7:].rsplit(":", 1)[0])  # noqa: S104
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
            Child(
                "worker",
                [sys.executable, "-P", "-m", "hessian_spectrum.worker"],
                worker_environment,
                log=log,
                obstacle=lambda: disk_obstacle(self._data.results),
            ),
            Child("service", service, environment, log=log, obstacle=lambda: port_obstacle(host, port)),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, stop: threading.Event, say: Callable[[str], None] = lambda _: None) -> list[str]:
        """Start everything and wait until jobs are served, or until `stop` is set.

        Where something outside keeps jobs from being served, as a full disk does, closed forms are served all the same,
        and jobs as soon as it is gone.

        Args:
            say: Told what is waited for.

        Returns:
            What jobs still lack.

        Raises:
            StackError: A process cannot be started.
            ChildKeepsDyingError: A process dies again and again right after its start.
        """
        if self._redis is not None:
            redis = self._redis
            redis.child.start()
            self._wait_for(lambda: redis.answers() or bool(redis.child.obstacle), _REDIS_START_SECONDS, "Redis", stop)
        else:
            self._wait_for(_external_redis_listens, _EXTERNAL_REDIS_SECONDS, f"the Redis of {REDIS_VARIABLE}", stop)
        for child in self._children:
            child.start()
        return self._wait_until_ready(stop, say)

    def supervise(self, stop: threading.Event, say: Callable[[str], None]) -> None:
        """Restart children that die until `stop` is set.

        Raises:
            ChildKeepsDyingError: A process dies again and again right after its start.
        """
        while not stop.wait(_POLL_SECONDS):
            self._revive(say)

    def stop(self) -> None:
        """Stop every child within ten seconds, Redis last, and give the directory back."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            child.wait(deadline)
        if self._redis is not None:
            self._redis.child.terminate()
            self._redis.child.wait(time.monotonic() + _REDIS_STOP_SECONDS)
            self._redis.remove_socket()
        self._data.release()

    def pids(self) -> dict[str, int | None]:
        """Process ids of the children by name."""
        return {child.name: child.pid for child in self._all()}

    def _all(self) -> list[Child]:
        return ([self._redis.child] if self._redis else []) + self._children

    def _revive(self, say: Callable[[str], None]) -> None:
        for child in self._all():
            if told := child.revive():
                say(told)

    def _wait_for(self, condition: Callable[[], bool], seconds: float, what: str, stop: threading.Event) -> None:
        deadline = time.monotonic() + seconds
        while not stop.is_set() and not condition():
            self._revive(lambda _: None)
            if time.monotonic() > deadline:
                raise StackError(f"{what} was not ready after {seconds:.0f} s")
            stop.wait(_POLL_SECONDS)

    def _wait_until_ready(self, stop: threading.Event, say: Callable[[str], None]) -> list[str]:
        started, told = time.monotonic(), None
        while not stop.is_set() and (missing := self._missing()) != []:
            self._revive(say)
            seconds = time.monotonic() - started
            if missing and (seconds > START_SECONDS or any(child.obstacle for child in self._all())):
                return missing
            if seconds > START_SECONDS:
                raise StackError(f"the service was not ready after {START_SECONDS:.0f} s")
            if missing and seconds > _PATIENCE_SECONDS and missing != told:
                say(f"not ready yet: {'; '.join(missing)}")
                told = missing
            stop.wait(_POLL_SECONDS)
        return []

    def _missing(self) -> list[str] | None:
        """What jobs lack, as the service says; None if it does not answer."""
        try:
            address = f"http://{self._health_host}:{self._port}/v1/health/ready"
            answer = httpx.get(address, timeout=_ANSWER_SECONDS, trust_env=False)  # a proxy would ask itself
            return [] if answer.is_success else [str(each) for each in answer.json()["missing"]]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None


def _external_redis_listens() -> bool:
    """Whether somebody is there; service and worker find out, and say, whether they are let in."""
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
