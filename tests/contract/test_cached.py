"""A request that was answered before is answered by the stored result, unless the caller wants another."""

import os
import signal
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.api_schemas.methods import TopKResult
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.worker_registry import SECONDS_BETWEEN_READS

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 3, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "top-k", "k": 2},
}


@pytest.fixture
def job() -> dict[str, Any]:
    """That nobody has asked before."""
    return JOB | {"seed": uuid.uuid4().int % 2**62}


def computed(client: SpectrumClient, request: dict[str, Any], **options: Any) -> Job:
    job = client.submit(request, wait_seconds=60, **options)
    assert (job.state, job.cached, job.attempt) == ("succeeded", False, 1), job
    return job


def answered(client: SpectrumClient, request: dict[str, Any], like: Job) -> Job:
    """At once, with the same bytes."""
    job = client.submit(request)
    assert (job.state, job.cached, job.attempt) == ("succeeded", True, 0), job
    assert job.started_at is None
    assert job.finished_at is not None
    assert job.id != like.id
    for name in ("json", "npz"):
        assert client.result_file(job.id, name) == client.result_file(like.id, name)  # type: ignore[arg-type]
    return job


def test_the_same_question_has_the_same_answer(client: SpectrumClient, server: Any, job: dict[str, Any]) -> None:
    first = computed(client, job | {"tags": {"paper": "one"}})
    second = answered(client, job | {"tags": {"paper": "two"}, "time_limit_seconds": 600.0, "shared": True}, first)
    assert (second.tags, second.shared) == ({"paper": "two"}, True)
    explicit = {"matrix": "hessian", "train": None, "model": JOB["model"] | {"activation": "relu", "seed": 0}}
    assert first.id != answered(client, dict(reversed((job | explicit).items())), first).id
    response = httpx.post(f"{server.url}/v1/jobs", json=job)
    assert response.status_code == 200
    assert response.headers["location"].endswith(response.json()["id"])
    tags = [httpx.get(f"{server.url}/v1/jobs/{i}/result").headers["etag"] for i in (first.id, second.id)]
    assert tags[0] == tags[1]
    for change in ({"seed": job["seed"] + 1}, {"precision": "float64"}, {"method": {"kind": "top-k", "k": 1}}):
        computed(client, job | change)


def test_a_fresh_result_is_computed_and_answers_from_then_on(client: SpectrumClient, job: dict[str, Any]) -> None:
    first = computed(client, job)
    second = computed(client, job, fresh=True)
    assert client.result(first.id) != client.result(second.id)  # it took another time
    answered(client, job, second)


@pytest.mark.parametrize("header", ["no-cache", "max-age=0, No-Cache"])
def test_no_cache_is_the_header(server: Any, client: SpectrumClient, job: dict[str, Any], header: str) -> None:
    computed(client, job)
    wish = {"Cache-Control": header, "Prefer": "wait=60"}
    assert httpx.post(f"{server.url}/v1/jobs", json=job, headers=wish, timeout=60).json()["cached"] is False


def test_a_result_lives_as_long_as_the_last_job_that_it_answers(client: SpectrumClient, job: dict[str, Any]) -> None:
    first = computed(client, job)
    second = answered(client, job, first)
    client.delete(first.id)
    third = answered(client, job, second)
    client.delete(second.id)
    client.delete(third.id)
    computed(client, job)


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")])
def test_a_result_that_is_gone_or_damaged_answers_nothing(
    client: SpectrumClient, server: Any, job: dict[str, Any], suffix: str, harm: Callable[[Path], Any]
) -> None:
    results = server.data_directory / "results"
    before = set(results.glob(f"*/*.{suffix}"))
    computed(client, job)
    (path,) = set(results.glob(f"*/*.{suffix}")) - before
    path.chmod(0o600)
    harm(path)
    answered(client, job, computed(client, job))


def test_an_idempotency_key_stands_for_one_answer(client: SpectrumClient, server: Any, job: dict[str, Any]) -> None:
    first = computed(client, job)
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.submit(job, idempotency_key=key), range(24)))
    assert len({each.id for each in made}) == 1
    assert made[0].cached
    assert made[0].id != first.id
    assert client.submit(job, idempotency_key=key, fresh=True).id == made[0].id
    refused = httpx.post(f"{server.url}/v1/jobs", json=job | {"seed": 0}, headers={"Idempotency-Key": key})
    assert refused.status_code == 422


def test_eigenvectors_come_with_the_answer(client: SpectrumClient, tmp_path: Path, job: dict[str, Any]) -> None:
    first = computed(client, job)
    second = answered(client, job, first)
    client.delete(first.id)
    client.save_result(second.id, tmp_path / "vectors.npz", "npz")
    result = client.result(second.id)
    assert isinstance(result, TopKResult)
    with np.load(tmp_path / "vectors.npz", allow_pickle=False) as arrays:
        assert arrays["eigenvectors"].shape == (2, result.num_parameters)


def test_without_a_worker_nothing_is_known_to_be_the_same(
    client: SpectrumClient, server: Any, job: dict[str, Any]
) -> None:
    computed(client, job)
    worker = server.pids("-m hessian_spectrum.worker")[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        with server.redis() as redis:
            redis.delete("spectrum:workers-seen")
        time.sleep(1.1 * SECONDS_BETWEEN_READS)
        assert not client.submit(job).cached
    finally:
        os.kill(worker, signal.SIGCONT)
    server.wait_until_ready()
