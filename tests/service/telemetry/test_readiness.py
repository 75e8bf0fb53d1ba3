"""Readiness names everything that is missing, and metrics go on without Redis."""

import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.jobs.worker_registry import register
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.telemetry import readiness

URL = "http://127.0.0.1"
JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
WORKER = WorkerStatus(name="a-1", device="cpu", memory_bytes=1, concurrency=1)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path) -> dict[str, Path]:
    """Directories of a service whose every part is there but a worker."""
    found = {name: tmp_path / name for name in ("results", "models")}
    for path in found.values():
        path.mkdir()
    monkeypatch.setenv("SPECTRUM_REDIS_URL", redis_url)
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(found["results"]))
    monkeypatch.setenv("SPECTRUM_MODELS_DIR", str(found["models"]))
    return found


def ask(path: str) -> httpx.Response:
    return TestClient(create_app(ServiceSettings.load()), base_url=URL).get(path)


def test_everything_that_is_missing_is_named(
    places: dict[str, Path], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("/v1/health/ready").json()["missing"] == ["no worker is present"]
    register(redis_client, WORKER)
    assert ask("/v1/health/ready").status_code == 200

    monkeypatch.setenv("SPECTRUM_REDIS_URL", "unix:///nowhere?db=0")
    client = TestClient(create_app(ServiceSettings.load()), base_url=URL)
    for place in places.values():
        place.rename(place.with_name(f"{place.name}-elsewhere"))
    refused = client.get("/v1/health/ready")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["type"] == "/problems/not-ready"
    missing = refused.json()["missing"]
    assert missing == [
        "redis does not answer",
        "the directory of results cannot be written: No such file or directory",
        "the models directory cannot be read",
    ]
    assert refused.json()["detail"] == "; ".join(missing)
    assert client.get("/v1/health/live").json() == {"status": "live"}


@pytest.mark.usefixtures("places")
def test_a_disk_that_is_nearly_full_is_missing(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    register(redis_client, WORKER)
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda _: SimpleNamespace(free=10, total=10**12))
    assert ask("/v1/health/ready").json()["missing"] == ["the disk of the results is nearly full"]


@pytest.mark.usefixtures("places")
def test_a_directory_and_a_redis_that_do_not_belong_together_are_not_ready(redis_client: redis.Redis) -> None:
    register(redis_client, WORKER)
    with TestClient(create_app(ServiceSettings.load()), base_url=URL) as client:
        deadline = time.monotonic() + 30
        while not redis_client.exists("spectrum:identity"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get("/v1/health/ready").status_code == 200
        redis_client.delete("spectrum:identity")
        [missing] = client.get("/v1/health/ready").json()["missing"]
    assert missing.startswith("Redis does not know this results directory")
    assert "spectrum-server bind" in missing


@pytest.mark.usefixtures("places")
def test_workers_that_take_no_jobs_are_none(redis_client: redis.Redis) -> None:
    register(redis_client, WORKER.model_copy(update={"fault": "The results directory is gone."}))
    assert ask("/v1/health/ready").json()["missing"] == ["no worker takes jobs: The results directory is gone."]
    register(redis_client, WORKER.model_copy(update={"name": "b-1"}))
    assert ask("/v1/health/ready").status_code == 200


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_deletes_jobs_is_not_ready(redis_client: redis.Redis, policy: str) -> None:
    register(redis_client, WORKER)
    redis_client.config_set("maxmemory-policy", policy)
    try:
        [missing] = ask("/v1/health/ready").json()["missing"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert missing == (
        f"redis deletes jobs when it is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
    )
    assert ask("/v1/health/ready").status_code == 200


@pytest.mark.usefixtures("places")
def test_a_full_redis_is_said_to_be_full(redis_client: redis.Redis) -> None:
    register(redis_client, WORKER.model_copy(update={"memory_bytes": 2**33}))
    client = TestClient(create_app(ServiceSettings.load()), base_url=URL)
    redis_client.config_set("maxmemory", 1)
    try:
        ready = client.get("/v1/health/ready")
        job = client.post("/v1/jobs", json=JOB)
        closed_form = client.post("/v1/closed-form", json=QUADRATIC)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert ready.json()["missing"] == ["redis is full: give it more memory (maxmemory), or delete jobs"]
    assert (job.status_code, job.json()["type"]) == (503, "/problems/redis-full")
    assert job.json()["detail"].startswith("Redis is full")
    assert closed_form.status_code == 200
    assert client.post("/v1/jobs", json=JOB).status_code == 202


@pytest.mark.usefixtures("places")
def test_metrics_without_redis_tell_what_the_service_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRUM_REDIS_URL", "unix:///nowhere?db=0")
    answer = ask("/metrics")
    assert answer.status_code == 200
    assert "spectrum_redis_up 0.0" in answer.text
    assert "spectrum_results_free_bytes" in answer.text
    assert "spectrum_workers" not in answer.text
