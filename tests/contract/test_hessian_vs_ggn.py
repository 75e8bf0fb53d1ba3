"""Comparisons of Hessian and GGN through the real stack."""

import io
import time
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient

GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 2, "n_head": 1, "n_embd": 3, "n_positions": 8, "vocab_size": 256}
JOB: dict[str, Any] = {
    "kind": "hessian-vs-ggn",
    "models": [GPT2, GPT2 | {"attention": False}],
    "labels": ["with", "without"],
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
    "pretrain": {"num_steps": 10, "batch_size": 2, "learning_rate": 0.03, "warmup_steps": 2},
    "tags": {"figure": "5"},
}
ENDLESS = JOB | {"pretrain": {"num_steps": 5_000_000, "batch_size": 1, "measure_every": [{"every": 5_000_000}]}}


@pytest.fixture(scope="module")
def job_id(server: Any) -> str:
    with SpectrumClient(server.url) as client:
        job = client.wait(client.submit(JOB, fresh=True).id, timeout_seconds=120)
    assert job.state == "succeeded", job
    assert job.kind == "hessian-vs-ggn"
    assert (job.progress.phase, job.progress.done, job.progress.total) == ("measurements", 4, 4)
    return job.id


def test_the_result_in_every_format(job_id: str, client: SpectrumClient) -> None:
    result = client.result(job_id)
    assert isinstance(result, HessianVsGgnResult)
    assert [curve.label for curve in result.curves] == ["with", "without"]
    for curve in result.curves:
        (run,) = curve.runs
        assert [point.step for point in run.points] == [0, 10]
        assert run.points[1].loss < run.points[0].loss
        assert all(point.hessian.converged and point.ggn.converged for point in run.points)
        assert curve.against_residual is not None
    with np.load(io.BytesIO(client.result_file(job_id, "npz")), allow_pickle=False) as arrays:
        assert arrays["ggn_1"].tolist() == [[point.ggn.value for point in result.curves[1].runs[0].points]]
    assert client.result_file(job_id, "png")[:4] == b"\x89PNG"
    assert client.result_file(job_id, "svg").rstrip().endswith(b"</svg>")


def test_results_have_tags_of_their_bytes_and_no_curves_to_smooth(job_id: str, server: Any) -> None:
    url = f"{server.url}/v1/jobs/{job_id}/result"
    first = httpx.get(url)
    assert first.json()["kind"] == "hessian-vs-ggn"
    assert httpx.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    refused = httpx.get(url, params={"kappa": 5})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", "kappa"]
    assert httpx.get(f"{server.url}/v1/jobs", params={"tag": "figure:5"}).json()["jobs"][0]["id"] == job_id


def test_estimates(client: SpectrumClient) -> None:
    found = client.estimate(JOB)
    assert found.fits
    assert found.num_products == 2 * 2 * 2 * 1_000
    assert found.num_training_passes == 2 * 10 * 2 / 2
    assert found.num_parameters == client.estimate(JOB | {"pretrain": None}).num_parameters
    assert found.peak_bytes > client.estimate(JOB | {"pretrain": None}).peak_bytes


WIDE = GPT2 | {"n_embd": 9_000, "n_layer": 12}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"kind": "hessian-vs-fisher"}, ["body", "kind"]),
        ({"kind": None}, ["body", "kind"]),
        ({"model": GPT2}, ["body", "model"]),
        ({"models": [GPT2, GPT2 | {"vocab_size": 3}]}, ["body", "models", 1, "vocab_size"]),
        ({"models": [GPT2, WIDE], "labels": None}, ["body", "models", 1]),
        ({"data": JOB["data"] | {"num_sequences": 0}}, ["body", "data", "num_sequences"]),
        ({"pretrain": {"num_steps": 5}}, ["body", "pretrain", "batch_size"]),
        (
            {"pretrain": JOB["pretrain"] | {"measure_every": [{"every": 0}]}},
            ["body", "pretrain", "measure_every", 0, "every"],
        ),
    ],
)
def test_bad_requests_name_the_field(fields: dict[str, Any], place: list[Any], server: Any) -> None:
    response = httpx.post(f"{server.url}/v1/jobs", json=JOB | fields)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["loc"] == place


def test_a_job_is_cancelled_while_it_trains(client: SpectrumClient) -> None:
    job_id = client.submit(ENDLESS).id
    deadline = time.monotonic() + 60
    while (job := client.job(job_id)).progress.phase != "training":
        assert job.state in ("queued", "running"), job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    assert job.progress.total == 10_000_000
    client.cancel(job_id)
    assert client.wait(job_id, timeout_seconds=20).state == "cancelled"


def test_training_that_diverges_is_the_callers_failure(client: SpectrumClient) -> None:
    wild = JOB["pretrain"] | {"learning_rate": 1e30, "warmup_steps": 0, "gradient_clip": None}
    job = client.wait(client.submit(JOB | {"pretrain": wild}).id, timeout_seconds=60)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.status == 422
    with pytest.raises(ProblemResponseError, match="cannot be computed"):
        client.result(job.id)


def test_a_checkpoint_is_named_with_its_digest(server: Any) -> None:
    request = {
        "kind": "hessian-vs-ggn",
        "models": [{"kind": "gpt2", "checkpoint": "tiny-gpt2"}, GPT2],
        "data": {"kind": "text", "text": "to be or not to be " * 9, "num_sequences": 2, "sequence_length": 4},
        "tolerance": 0.1,
    }
    with httpx.Client(base_url=server.url, timeout=90) as api:
        job = api.post("/v1/jobs", json=request, headers={"Prefer": "wait=60"}).json()
        ours, other = api.get(f"/v1/jobs/{job['id']}/result").json()["curves"]
        (known,) = [model for model in api.get("/v1/models").json()["models"] if model["name"] == "tiny-gpt2"]
    assert ours["checkpoint"] == {"name": "tiny-gpt2", "sha256": known["sha256"]}
    assert other["checkpoint"] is None
