"""Interim results of a Lanczos job over HTTP: what a client sees while probes are under way."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient

LONG: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 400, 400, 10]},
    "data": {"kind": "digits"},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 30, "num_probes": 14},
}
ENDLESS = LONG | {
    "model": {"kind": "mlp", "widths": [64, 100, 100, 10]},
    "method": {"kind": "lanczos", "num_steps": 3000, "num_probes": 20, "reorthogonalisation": "none"},
}


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as http:
        yield http


def wait_for_interim(client: SpectrumClient, job_id: str) -> str:
    for job in client.events(job_id):
        if job.interim:
            return job.interim
    raise AssertionError("the job has ended")


def test_a_density_becomes_sharper_until_the_job_ends(server: Any, client: SpectrumClient) -> None:
    job_id = client.submit(LONG, fresh=True).id
    with pytest.raises(ProblemResponseError, match="not finished"):
        client.result(job_id)
    found = list(client.interim_results(job_id))
    assert len(found) >= 2
    assert all(isinstance(each, LanczosResult) for each in found)
    *interim, final = found
    assert all(each.interim for each in interim)
    assert final == client.result(job_id) == client.result(job_id, interim=True)
    assert not final.interim
    for each in interim:
        assert each.num_parameters == final.num_parameters
        assert each.provenance.num_products < final.provenance.num_products
        assert (np.array(each.density.band.lower) <= each.density.values).all()
        assert each.trace.lower <= final.trace.upper  # both contain the exact trace
        assert final.trace.lower <= each.trace.upper
    assert client.job(job_id).interim is None


def test_an_interim_result_has_all_formats(server: Any, client: SpectrumClient, http: httpx.Client) -> None:
    job_id = client.submit(ENDLESS).id
    try:
        identifier = wait_for_interim(client, job_id)
        address = f"{server.url}/v1/jobs/{job_id}/result"
        assert http.get(address).status_code == 409
        answer = http.get(f"{address}?interim=true")
        assert (answer.status_code, answer.json()["interim"], answer.json()["method"]) == (200, True, "lanczos")
        for name, beginning in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("npz", b"PK"), ("csv", b"eigenvalue,")):
            file = http.get(f"{address}.{name}?interim=true")
            assert file.content.startswith(beginning), file.text
        smoothed = http.get(f"{address}?interim=true&num_points=100").json()
        assert len(smoothed["density"]["grid"]) == 100
        assert smoothed["interim"] is True
        deadline = time.monotonic() + 60
        while client.job(job_id).interim == identifier:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert http.get(f"{address}?interim=perhaps").status_code == 422
    finally:
        client.cancel(job_id)
    assert client.wait(job_id).state == "cancelled"
    with pytest.raises(JobFailedError, match="cancelled"):
        list(client.interim_results(job_id))
    assert http.get(f"{address}?interim=true").json()["type"] == "/problems/job-cancelled"


def test_other_methods_have_none(client: SpectrumClient) -> None:
    job_id = client.submit(LONG | {"method": {"kind": "trace", "num_probes": 20}}, fresh=True).id
    (result,) = client.interim_results(job_id)
    assert result.method == "trace"


def test_the_asynchronous_client_sees_them_too(server: Any) -> None:
    async def watch() -> list[Any]:
        async with AsyncSpectrumClient(server.url) as client:
            job = await client.submit(LONG | {"method": {"kind": "lanczos", "num_probes": 7, "num_steps": 30}})
            return [each async for each in client.interim_results(job.id)]

    *interim, final = asyncio.run(watch())
    assert interim
    assert [each.interim for each in (*interim, final)] == [True] * len(interim) + [False]
