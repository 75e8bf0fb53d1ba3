"""`python -m benchmarks.source_trace`: which of our source files run for one closed form and for one Lanczos job.

The service and the worker run in this process, the first request of each kind warms them up, and the second one is
traced: a file counts when one of its functions is called, module level code does not.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from celery import Celery
from fastapi import FastAPI

from hessian_spectrum.jobs.queue import RUN_JOB
from hessian_spectrum.jobs.settings import ServiceSettings, WorkerSettings
from hessian_spectrum.launcher.embedded_redis import server_binary
from hessian_spectrum.service.app import create_app
from hessian_spectrum.worker.runtime.app import create_worker

MAX_FILES_OF_A_CLOSED_FORM = 18
MAX_FILES_OF_A_JOB = 60

REDIS_SECONDS = 20.0
REAP_SECONDS = 3600.0
"""So that the periodic tasks of the service run before the trace alone."""

CLOSED_FORM: dict[str, Any] = {
    "model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]},
    "data": {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]},
}
LANCZOS_JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [3, 5, 2]},
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
    "loss": "mse",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 3, "num_points": 32},
}

_PACKAGE = "hessian_spectrum"


class SourceTrace:
    """The source files of this project whose functions are called while it records."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._is_recording = False
        self._known: dict[str, str | None] = {}

    def install(self) -> None:
        """Watch this thread and all that are started from now on."""
        threading.setprofile(self._notice)
        sys.setprofile(self._notice)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record from here to the end of the block."""
        self._is_recording = True
        try:
            yield
        finally:
            self._is_recording = False

    def _notice(self, frame: FrameType, event: str, _: Any) -> None:
        if self._is_recording and event == "call" and frame.f_code.co_name != "<module>":
            path = frame.f_code.co_filename
            if path not in self._known:
                self._known[path] = _short_path(path)
            if (short := self._known[path]) is not None:
                self.files.add(short)


def _short_path(path: str) -> str | None:
    """The path from the package on; None for files that are not of this project."""
    parts = Path(path).parts
    return "/".join(parts[parts.index(_PACKAGE) + 1 :]) if _PACKAGE in parts else None


async def closed_form_files(app: FastAPI, trace: SourceTrace) -> set[str]:
    """The files that a small closed form enters from POST to its answer."""
    async with _client(app) as client:
        await _post(client, "/v1/closed-form", CLOSED_FORM)
        trace.files = set()
        with trace.recording():
            await _post(client, "/v1/closed-form", CLOSED_FORM)
    return trace.files


async def job_files(app: FastAPI, worker: Celery, trace: SourceTrace) -> set[str]:
    """The files that a Lanczos job enters from POST until its result has been read."""
    async with app.router.lifespan_context(app), _client(app) as client:
        await _run_job(client, worker, LANCZOS_JOB)
        await asyncio.sleep(1.0)  # the tasks that follow an ended job are no part of the next one
        trace.files = set()
        with trace.recording():
            await _run_job(client, worker, LANCZOS_JOB | {"seed": 1})  # the same seed would be answered by the store
    return trace.files


async def _run_job(client: httpx.AsyncClient, worker: Celery, request: dict[str, Any]) -> None:
    job = (await _post(client, "/v1/jobs", request)).json()
    await asyncio.to_thread(worker.tasks[RUN_JOB], job["id"])
    (await client.get(f"/v1/jobs/{job['id']}/result")).raise_for_status()


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return (await client.post(path, json=body)).raise_for_status()


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=120)


@contextmanager
def running_redis(directory: Path) -> Iterator[str]:
    """The address of a Redis server of its own, which ends with the block.

    Raises:
        TimeoutError: If it has not started after a while.
    """
    path = directory / "redis.sock"
    command = [server_binary(), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + REDIS_SECONDS
            while not path.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError("Redis has not started")
                time.sleep(0.02)
            yield f"unix://{path}?db=0"
        finally:
            process.terminate()


def traced_files(directory: Path) -> tuple[set[str], set[str]]:
    """The files of a closed form and of a Lanczos job, with everything that both need under a directory."""
    trace = SourceTrace()
    trace.install()
    (directory / "results").mkdir()
    with running_redis(directory) as redis_url:
        storage: dict[str, Any] = {"redis_url": redis_url, "results_dir": directory / "results"}
        app, worker = (
            create_app(ServiceSettings(**storage, reap_seconds=REAP_SECONDS)),
            create_worker(WorkerSettings(**storage)),
        )
        closed_form = asyncio.run(closed_form_files(create_app(ServiceSettings(**storage)), trace))
        return closed_form, asyncio.run(job_files(app, worker, trace))


def main() -> None:
    """Print the files of both, and how many there may be."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        closed_form, job = traced_files(Path(directory))
    print(f"{len(list(Path(__file__).parents[1].glob(f'*/{_PACKAGE}/**/*.py')))} source files")
    _report("closed form", closed_form, MAX_FILES_OF_A_CLOSED_FORM)
    _report("Lanczos job", job, MAX_FILES_OF_A_JOB)


def _report(name: str, files: set[str], limit: int) -> None:
    print(f"\n{name}: {len(files)} files, {limit} at most")
    for directory, number in sorted(Counter(str(Path(file).parent) for file in files).items()):
        names = sorted(Path(file).name for file in files if str(Path(file).parent) == directory)
        print(f"  {directory}: {number} ({', '.join(names)})")


if __name__ == "__main__":
    main()
