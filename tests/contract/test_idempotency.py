"""`Idempotency-Key`: a request that is sent again does not become a second job."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.http import SpectrumClient
from tests.fixtures.jobs import EXACT_JOB

FRESH = {"Cache-Control": "no-cache"}


@pytest.fixture
def api(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=90) as api:
        yield api


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def test_the_same_request_is_the_same_job(api: httpx.Client, key: dict[str, str]) -> None:
    first = api.post("/v1/jobs", json=EXACT_JOB, headers=key | {"Prefer": "wait=60"})
    assert "idempotency-replayed" not in first.headers
    assert first.json()["state"] == "succeeded"
    spaced = json.dumps(dict(reversed(EXACT_JOB.items())), indent=4)
    again = api.post("/v1/jobs", content=spaced, headers=key | {"Content-Type": "application/json"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.status_code == 200
    assert again.json() == first.json()
    other = api.post("/v1/jobs", json=EXACT_JOB, headers={"Idempotency-Key": "another " + key["Idempotency-Key"]})
    assert other.json()["id"] != first.json()["id"]
    assert "idempotency-replayed" not in other.headers


def test_another_request_is_refused(api: httpx.Client, key: dict[str, str]) -> None:
    assert api.post("/v1/jobs", json=EXACT_JOB, headers=key | FRESH).status_code == 202
    refused = api.post("/v1/jobs", json=EXACT_JOB | {"seed": 1}, headers=key)
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/idempotency-key-reused"
    assert refused.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]


def test_many_at_once_are_one_job(server: Any, key: dict[str, str]) -> None:
    tagged = EXACT_JOB | {"tags": {"once": key["Idempotency-Key"]}}
    with SpectrumClient(server.url) as client, ThreadPoolExecutor(16) as pool:
        submit = partial(client.submit, tagged, idempotency_key=key["Idempotency-Key"])
        submissions = [pool.submit(submit) for _ in range(40)]
        assert len({each.result().id for each in submissions}) == 1
        assert len(list(client.jobs(tag=f"once:{key['Idempotency-Key']}"))) == 1


def test_a_request_that_is_refused_takes_no_key(api: httpx.Client, key: dict[str, str]) -> None:
    assert api.post("/v1/jobs", json=EXACT_JOB | {"loss": "none"}, headers=key).status_code == 422
    assert api.post("/v1/jobs", json=EXACT_JOB, headers=key | FRESH).status_code == 202


@pytest.mark.parametrize("text", ["", "x" * 256])
def test_keys_have_a_length(api: httpx.Client, text: str) -> None:
    refused = api.post("/v1/jobs", json=EXACT_JOB, headers={"Idempotency-Key": text})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"][0] == "header"
