"""`POST /v1/jobs/batch`: many jobs, all of them or none; and `GET /v1/jobs/{id}/request`, from which they run again."""

import json
import time
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.http import SpectrumClient
from tests.fixtures.jobs import EXACT_JOB


def jobs(*seeds: int, **fields: Any) -> list[dict[str, Any]]:
    return [EXACT_JOB | {"model": EXACT_JOB["model"] | {"seed": seed}} | fields for seed in seeds]


def send(server: Any, batch: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.url}/v1/jobs/batch", json={"jobs": batch}, headers=named, timeout=60)


def test_all_jobs_run_and_keep_their_order(server: Any, client: SpectrumClient) -> None:
    answer = send(server, jobs(*range(40)), Cache_Control="no-cache")
    assert answer.status_code == 202
    records = answer.json()["jobs"]
    ids = [each["id"] for each in records]
    assert ids == sorted(ids)
    assert [each["state"] for each in records] == ["queued"] * 40
    assert {client.wait(job_id).state for job_id in ids} == {"succeeded"}
    for seed, job_id in enumerate(ids):
        assert client.result(job_id) == client.run(jobs(seed)[0])
    again = send(server, jobs(*range(40)))
    assert again.status_code == 200
    assert all(each["cached"] for each in again.json()["jobs"])


def test_one_key_stands_for_the_whole_batch(server: Any) -> None:
    first, second = (send(server, jobs(1, 2, 3), Idempotency_Key="batch-key", Cache_Control="no-cache") for _ in "ab")
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert [each["id"] for each in first.json()["jobs"]] == [each["id"] for each in second.json()["jobs"]]
    refused = send(server, jobs(1, 2), Idempotency_Key="batch-key")
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/idempotency-key-reused")


@pytest.mark.parametrize(
    ("wrong", "location", "said"),
    [
        ({"loss": "none"}, ["body", "jobs", 2, "loss"], ""),
        ({"method": {"kind": "lanczos", "num_steps": 0}}, ["body", "jobs", 2, "method"], "num_steps"),
        ({"model": {"kind": "mlp", "widths": [1, 10**7, 1]}}, ["body", "jobs", 2], ""),  # too large for the workers
        ({"time_limit_seconds": 1e9}, ["body", "jobs", 2], "time_limit_seconds"),
    ],
)
def test_one_wrong_job_refuses_all_and_is_named(
    server: Any, client: SpectrumClient, wrong: dict[str, Any], location: list[Any], said: str
) -> None:
    tag = f"run-{time.time_ns()}"
    batch = jobs(1, 2, 3, 4, tags={"batch": tag})
    batch[2] |= wrong
    refused = send(server, batch)
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert problem["errors"][0]["loc"][: len(location)] == location
    assert problem["instance"] == "/v1/jobs/batch#/jobs/2"
    assert said in json.dumps(problem)
    assert list(client.jobs(tag=f"batch:{tag}")) == []


def test_what_is_no_batch_is_refused(server: Any) -> None:
    for body in ({"jobs": []}, {"jobs": [EXACT_JOB] * 1001}, {"jobs": EXACT_JOB}, [EXACT_JOB], {"items": [EXACT_JOB]}):
        assert httpx.post(f"{server.url}/v1/jobs/batch", json=body).status_code == 422
    refused = httpx.post(f"{server.url}/v1/jobs/batch", content=b"{}", headers={"Content-Type": "text/plain"})
    assert refused.status_code == 415
    doubled = b'{"jobs": [{"kind": "spectrum", "kind": "sweep"}]}'
    refused = httpx.post(f"{server.url}/v1/jobs/batch", content=doubled, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422


def test_any_job_can_be_run_again_from_its_request(server: Any, client: SpectrumClient) -> None:
    job = client.submit(jobs(7)[0] | {"tags": {"a": "b"}, "seed": 3})
    result = client.run(jobs(7)[0] | {"seed": 3})
    client.wait(job.id)
    request = client.request(job.id)
    assert request["tags"] == {"a": "b"}
    assert request["model"]["seed"] == 7
    assert client.run(request) == result
    client.delete(job.id)
    assert httpx.get(f"{server.url}/v1/jobs/{job.id}/request").status_code == 404


def test_a_long_request_is_gone_with_the_end_of_its_job(server: Any, client: SpectrumClient) -> None:
    x = [float(number) / 7 for number in range(1000)]
    job = client.submit(EXACT_JOB | {"data": {"kind": "inline", "x": x, "y": x}})
    client.wait(job.id)
    gone = httpx.get(f"{server.url}/v1/jobs/{job.id}/request")
    assert (gone.status_code, gone.json()["type"]) == (410, "/problems/request-not-kept")
