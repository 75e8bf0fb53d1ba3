"""Service and workers, each with a directory of its own, share an object store, which is killed in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.storage.stores import open_stores
from tests.conftest import free_port
from tests.storage.object_store_server import ObjectStoreServer

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(900)]

SECONDS = 240
ARRAYS_JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "loss": "cross-entropy",
    "method": {"kind": "top-k", "k": 3, "eigenvectors": True},
}
TRAINING = {"num_steps": 8000, "learning_rate": 0.01}


class Machine:
    """A process with a directory that no other one sees."""

    def __init__(self, directory: Path, environment: dict[str, str], module: str, *arguments: str) -> None:
        directory.mkdir()
        self.directory, self.log = directory, directory.with_suffix(".log")
        variables = os.environ | environment | {"SPECTRUM_RESULTS_DIR": str(directory / "results")}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"hessian_spectrum.{module}", *arguments],
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """`kill -9` of the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def says(self, text: str) -> bool:
        return text in self.log.read_text()


def until(condition: Callable[[], object], *machines: Machine) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "\n".join(machine.log.read_text()[-3000:] for machine in machines)
        time.sleep(0.2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    server = ObjectStoreServer(tmp_path / "object-store")
    server.start()
    server.make_bucket()
    yield server
    server.kill()


@pytest.fixture
def start(
    tmp_path: Path, redis_url: str, redis_client: Any, store: ObjectStoreServer
) -> Iterator[Callable[..., Machine]]:
    redis_client.flushall()
    environment = store.environment | {
        "SPECTRUM_REDIS_URL": redis_url,
        "SPECTRUM_STORAGE_URL": "s3://spectrum/deployment",
        "SPECTRUM_LEASE_SECONDS": "3",
        "SPECTRUM_CHECKPOINT_SECONDS": "0.5",
        "SPECTRUM_REPUBLISH_SECONDS": "2",
        # Only a worker that computes alike goes on from a checkpoint.
        "SPECTRUM_MEMORY_BYTES": str(2**31),
        "SPECTRUM_NUM_THREADS": "1",
        "REMAP_SIGTERM": "SIGQUIT",
    }
    machines: list[Machine] = []

    def run(name: str, module: str, *arguments: str) -> Machine:
        machines.append(Machine(tmp_path / name, environment, module, *arguments))
        return machines[-1]

    yield run
    for machine in machines:
        machine.kill()


def test_a_job_moves_to_another_machine_and_outlasts_the_store(
    tmp_path: Path, store: ObjectStoreServer, start: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    kept = open_stores(tmp_path / "looks", "s3://spectrum/deployment")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    service = start("service", "service", "--port", str(port))
    workers = [start(name, "worker") for name in ("first", "second")]

    def num_workers() -> int:
        with contextlib.suppress(httpx.HTTPError, KeyError):
            return len(httpx.get(f"{url}/v1/health/ready", timeout=10).json()["workers"])
        return 0

    until(lambda: num_workers() == 2, service, *workers)
    generator = np.random.default_rng(0)
    data = {"x": generator.normal(size=(128, 64)), "y": generator.integers(0, 10, 128)}
    save_file(data, tmp_path / "data.safetensors")
    with SpectrumClient(url) as client:
        artifact = client.upload_arrays(tmp_path / "data.safetensors")
        job = ARRAYS_JOB | {"data": {"kind": "artifact", "id": artifact.id}, "train": TRAINING}
        job_id = client.submit(job).id
        until(lambda: client.job(job_id).progress.done > 100, service, *workers)
        [first] = [worker for worker in workers if worker.says("job claimed")]
        [second] = [worker for worker in workers if worker is not first]

        def num_checkpoints() -> int:
            return len(list(kept.checkpoints.of_attempt(job_id, 0).newest_first()))

        until(lambda: num_checkpoints() > 0, first)
        store.kill()
        until(lambda: first.says("no checkpoint could be written") or first.says("waits for the object store"), first)
        assert client.job(job_id).state == "running"
        first.kill()
        store.start()
        found = client.wait(job_id, timeout_seconds=SECONDS)
        assert (found.state, found.attempt) == ("succeeded", 2), found
        assert second.says("the job continues after"), second.log.read_text()

        undisturbed = client.submit(job, fresh=True).id
        assert client.wait(undisturbed, timeout_seconds=SECONDS).state == "succeeded"
        (path, other) = (tmp_path / f"{name}.npz" for name in (job_id, undisturbed))
        for each, file in ((job_id, path), (undisturbed, other)):
            file.write_bytes(client.result_file(each, "npz"))
        with np.load(path) as one, np.load(other) as two:
            assert one["eigenvectors"].shape == (3, 610)
            for name in set(one) - {"document"}:
                np.testing.assert_array_equal(one[name], two[name])

        # at the end of a job the worker waits for the store instead of giving up what it computed
        last = client.submit(job | {"train": TRAINING | {"num_steps": 2000}}).id
        until(lambda: client.job(last).progress.done > 0, second)
        store.kill()
        until(lambda: second.says("waits for the object store"), second)
        assert client.job(last).state == "running"
        assert httpx.get(f"{url}/v1/jobs/{job_id}/result", timeout=60).status_code == 503
        store.start()
        assert client.wait(last, timeout_seconds=SECONDS).state == "succeeded"
        assert client.job(last).attempt == 1
    for machine in (service, second):
        assert not list(machine.directory.rglob("*.json"))
        assert not list(machine.directory.rglob("draft-*"))
