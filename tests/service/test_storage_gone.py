"""A directory of results that is gone or read-only: what needs it is refused with 503, all else goes on."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.service.app import create_app
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultStore
from tests.fixtures.jobs import create_job

QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}

GPT2 = JOB | {
    "model": {"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 8},
    "loss": "cross-entropy",
}


class Deployment:
    """A service with an uploaded file and a job that has a result."""

    def __init__(self, client: redis.Redis, redis_url: str, directory: Path) -> None:
        self.directory, self.client = directory, client
        app = create_app(ServiceSettings(redis_url=redis_url, results_dir=directory))  # type: ignore[arg-type]
        self.storage: StorageIdentity = app.state.context.stores.identity
        self.storage.settle()
        self.http = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        self.artifact_id = self.upload(b"\1\0\2\0\3\0").json()["id"]
        store = JobStore(client, lease_seconds=30.0, max_attempts=2)
        lease = store.claim(create_job(store)[0].id)
        assert lease is not None
        self.job_id, self.digest = lease.job_id, ResultStore(LocalDirectory(directory)).write(b'{"kind": "spectrum"}')
        store.succeed(lease, self.digest)

    def upload(self, content: bytes) -> Any:
        headers = {"Content-Type": "application/octet-stream"}
        return self.http.post("/v1/artifacts", content=content, headers=headers)

    def refusals(self) -> dict[str, Callable[[], Any]]:
        """Requests that the directory is written for."""
        return {
            "upload": lambda: self.upload(b"\4\0\5\0"),
            "upload again": lambda: self.upload(b"\1\0\2\0\3\0"),
            "delete": lambda: self.http.delete(f"/v1/artifacts/{self.artifact_id}"),
        }

    def assert_all_else_goes_on(self) -> None:
        assert self.http.post("/v1/closed-form", json=QUADRATIC).json()["sharpness"] == 2.0
        assert self.http.post("/v1/jobs", json=JOB).status_code == 202
        assert self.http.get(f"/v1/jobs/{self.job_id}").json()["state"] == "succeeded"
        assert self.http.get("/metrics").status_code == 200
        [missing] = [each for each in self.http.get("/v1/health/ready").json()["missing"] if "worker" not in each]
        assert missing.startswith("the directory of results cannot be written")
        # Deleted for the caller; the retention task removes the files once it can.
        assert self.http.delete(f"/v1/jobs/{self.job_id}").status_code == 204
        assert self.http.get(f"/v1/jobs/{self.job_id}").status_code == 404
        assert self.client.smembers("spectrum:unwanted-results") == {self.digest}


@pytest.fixture
def deployment(redis_client: redis.Redis, redis_url: str, tmp_path: Path) -> Deployment:
    return Deployment(redis_client, redis_url, tmp_path / "results")


def assert_unavailable(name: str, answer: Any) -> None:
    assert (name, answer.status_code, answer.json()["type"]) == (name, 503, "/problems/disk-unavailable"), answer.text
    assert answer.headers["retry-after"]
    assert str(os.getcwd()) not in answer.text


def test_a_directory_that_is_gone(deployment: Deployment) -> None:
    directory = deployment.directory
    directory.rename(directory.with_name("elsewhere"))
    tokens = {"kind": "tokens", "id": deployment.artifact_id, "num_sequences": 1, "sequence_length": 2}
    arrays = {"kind": "artifact", "id": deployment.artifact_id}
    requests = deployment.refusals() | {
        "list": lambda: deployment.http.get("/v1/artifacts"),
        "look": lambda: deployment.http.get(f"/v1/artifacts/{deployment.artifact_id}"),
        "result": lambda: deployment.http.get(f"/v1/jobs/{deployment.job_id}/result"),
        "job of tokens": lambda: deployment.http.post("/v1/jobs", json=GPT2 | {"data": tokens | {"kind": "artifact"}}),
        "job of arrays": lambda: deployment.http.post("/v1/jobs", json=JOB | {"data": arrays}),
        "estimate": lambda: deployment.http.post("/v1/estimates", json=JOB | {"data": arrays}),
    }
    for name, request in requests.items():
        assert_unavailable(name, request())
    deployment.assert_all_else_goes_on()
    assert not directory.exists()

    directory.with_name("elsewhere").rename(directory)
    assert deployment.upload(b"\4\0\5\0").status_code == 201
    assert deployment.http.delete(f"/v1/artifacts/{deployment.artifact_id}").status_code == 204


def test_a_directory_that_is_read_only(deployment: Deployment) -> None:
    with read_only(deployment.directory):
        for name, request in deployment.refusals().items():
            assert_unavailable(name, request())
        assert deployment.http.get(f"/v1/artifacts/{deployment.artifact_id}").json()["num_tokens"] == 3
        assert len(deployment.http.get("/v1/artifacts").json()["artifacts"]) == 1
        assert deployment.http.get(f"/v1/jobs/{deployment.job_id}/result").json() == {"kind": "spectrum"}
        deployment.assert_all_else_goes_on()
    assert deployment.upload(b"\4\0\5\0").status_code == 201


def test_an_empty_volume_in_its_place_takes_files(deployment: Deployment) -> None:
    deployment.directory.rename(deployment.directory.with_name("elsewhere"))
    deployment.directory.mkdir()
    assert deployment.http.get(f"/v1/artifacts/{deployment.artifact_id}").status_code == 404
    assert deployment.upload(b"\4\0\5\0").status_code == 201


def test_a_service_starts_without_it(redis_client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    places = {"results_dir": tmp_path / "file" / "results", "keys_file": tmp_path / "keys.json"}
    settings = ServiceSettings(redis_url=redis_url, **places)  # type: ignore[arg-type]
    with TestClient(create_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        assert http.post("/v1/closed-form", json=QUADRATIC).status_code == 200
        assert http.get("/v1/artifacts").status_code == 503
        assert "cannot be written: Not a directory" in http.get("/v1/health/ready").json()["detail"]


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """For root, whom no mode stops, by a mount."""
    if os.geteuid():
        folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        yield
        for path in folders:
            path.chmod(0o755)
        return
    for command in (["--bind", directory, directory], ["-o", "remount,bind,ro", directory]):
        if subprocess.run(["mount", *map(str, command)], capture_output=True, check=False).returncode:
            pytest.skip("root that may not mount cannot make a directory read-only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)
