"""Checkpoints through the real stack: listed, computed, refused."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app

JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "gpt2", "checkpoint": "tiny-gpt2"},
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 16},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 4, "num_probes": 1, "num_points": 16},
}


@pytest.fixture
def models(server: Any) -> Path:
    directory: Path = server.data_directory / "models"
    return directory


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=70) as client:
        yield client


def wait_until_tried(http: httpx.Client, name: str) -> dict[str, Any]:
    """What is said of a checkpoint once a worker has tried it, which nobody asked it to."""
    deadline = time.monotonic() + 200
    while True:
        found: dict[str, Any] = http.get(f"/v1/models/{name}").json()
        if found["state"] != "unchecked":
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_checkpoints_are_listed_by_every_client(server: Any, client: SpectrumClient, http: httpx.Client) -> None:
    tried = wait_until_tried(http, "tiny-gpt2")
    assert (tried["state"], tried["reason"]) == ("loadable", None)
    listed = http.get("/v1/models").json()["models"]
    tiny = next(found for found in listed if found["name"] == "tiny-gpt2")
    assert (tiny["kind"], tiny["num_parameters"], tiny["problem"]) == ("gpt2", 3936, None)
    assert len(tiny["sha256"]) == 64
    assert http.get("/v1/models/tiny-gpt2").json() == tiny
    assert [found.model_dump() for found in client.models()] == listed
    printed = CliRunner().invoke(app, ["models", "--url", server.url]).output
    assert ["tiny-gpt2", "gpt2", "3,936", tiny["sha256"], "loadable"] in [line.split() for line in printed.splitlines()]


async def _names(url: str) -> list[str]:
    client = AsyncSpectrumClient(url)
    names = [found.name for found in await client.models()]
    await client.close()
    return names


def test_the_async_client_lists_the_same(server: Any) -> None:
    import asyncio

    assert "tiny-gpt2" in asyncio.run(_names(server.url))


def test_a_job_begins_with_a_checkpoint(client: SpectrumClient, http: httpx.Client) -> None:
    estimate = http.post("/v1/estimates", json=JOB)
    assert estimate.json()["num_parameters"] == 3936
    result = client.run(JOB)
    assert isinstance(result, LanczosResult)
    assert result.num_parameters == 3936
    assert result.provenance.checkpoint is not None
    assert result.provenance.checkpoint.name == "tiny-gpt2"
    assert result.provenance.checkpoint.sha256 == http.get("/v1/models/tiny-gpt2").json()["sha256"]
    drawn = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 256}
    assert client.run(JOB | {"model": drawn}).provenance.checkpoint is None


@pytest.mark.slow
def test_another_architecture_goes_by_transformers(
    client: SpectrumClient, models: Path, write_gpt2: Callable[..., Path]
) -> None:
    """A GPT-2 with an option that the engine's own has not; in a forked worker, which loads transformers only now."""
    write_gpt2(models / "scaled-gpt2", scale_attn_by_inverse_layer_idx=True)
    result = client.run(JOB | {"model": {"kind": "causal-lm", "checkpoint": "scaled-gpt2"}})
    assert result.num_parameters == 3936
    assert "transformers" in result.provenance.versions
    own = client.run(JOB)
    assert own.provenance.parameters_sha256 != result.provenance.parameters_sha256  # in another order
    assert own.loss != result.loss


def test_a_checkpoint_that_no_worker_can_load_is_refused_before_any_job(
    http: httpx.Client, models: Path, write_gpt2: Callable[..., Path]
) -> None:
    """What only the library knows is found out by a worker, and said by the service."""
    write_gpt2(models / "run-7" / "checkpoint-5", model_type="gpt-of-my-own", auto_map={"AutoModel": "evil.Model"})
    found = wait_until_tried(http, "run-7/checkpoint-5")
    assert found["state"] == "refused"
    assert "no causal language model of model_type 'gpt-of-my-own'" in found["reason"]
    assert found["problem"] == found["reason"]
    refused = http.post("/v1/jobs", json=JOB | {"model": {"kind": "causal-lm", "checkpoint": "run-7/checkpoint-5"}})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["loc"] == ["body", "model", "checkpoint"]
    assert found["reason"] in error["msg"]


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"checkpoint": "no-such"}, "body.model.checkpoint"),
        ({"checkpoint": "../models/tiny-gpt2"}, "body.model.checkpoint"),
        ({"checkpoint": "/etc"}, "body.model.checkpoint"),
        ({"checkpoint": "tiny-gpt2", "n_layer": 3}, "body.model.n_layer"),
        ({"checkpoint": "tiny-gpt2", "checkpoint_sha256": "0" * 64}, "body.model.checkpoint_sha256"),
        ({}, "body.model.n_layer"),
        ({"kind": "causal-lm", "checkpoint": "no-such"}, "body.model.checkpoint"),
        ({"kind": "causal-lm"}, "body.model.checkpoint"),
    ],
)
def test_requests_that_name_no_checkpoint_are_refused(http: httpx.Client, model: dict[str, Any], field: str) -> None:
    response = http.post("/v1/jobs", json=JOB | {"model": {"kind": "gpt2"} | model})
    assert response.status_code == 422
    assert ".".join(map(str, response.json()["errors"][0]["loc"])) == field


@pytest.mark.parametrize("path", ["..%2Ftiny-gpt2", "..%2f..%2fetc", "%2e%2e", "no-such", "%00", "x" * 200])
def test_paths_that_name_no_checkpoint_are_refused(http: httpx.Client, path: str) -> None:
    response = http.get(f"/v1/models/{path}")
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_broken_checkpoints_are_listed_with_their_problem(
    http: httpx.Client, models: Path, write_gpt2: Callable[..., Path], tmp_path: Path
) -> None:
    truncated = write_gpt2(models / "truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    write_gpt2(models / "disagreeing", n_layer=5)
    (models / "link").symlink_to(write_gpt2(tmp_path / "outside"))
    (models / "pickled").mkdir()
    (models / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (models / "pickled" / "config.json").write_text("{}")
    listed = {found["name"]: found for found in http.get("/v1/models").json()["models"]}
    assert list(listed) == sorted(listed)
    for name, said in (
        ("truncated", "model.safetensors is damaged"),
        ("disagreeing", "config.json and weights disagree: h.2.attn.c_attn.bias is missing"),
        ("link", "leads out of the models directory"),
        ("pickled", "a PyTorch checkpoint: convert it"),
    ):
        found = listed[name]
        assert said in found["problem"]
        assert str(models) not in json.dumps(found)
        assert found["sha256"] is found["num_parameters"] is None
        refused = http.post("/v1/jobs", json=JOB | {"model": {"kind": "gpt2", "checkpoint": name}})
        assert refused.status_code == 422
        assert said in refused.json()["errors"][0]["msg"]
    assert listed["tiny-gpt2"]["problem"] is None


def test_a_checkpoint_that_changes_after_submission_fails_the_job(
    client: SpectrumClient, models: Path, write_gpt2: Callable[..., Path]
) -> None:
    path = write_gpt2(models / "changing") / "model.safetensors"
    # the only worker is busy until the checkpoint has been replaced
    busy = JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-9}}
    first = client.submit(busy).id
    job = client.submit(JOB | {"model": {"kind": "gpt2", "checkpoint": "changing"}}, fresh=True)
    weights = load_file(path)
    save_file(weights | {"transformer.ln_f.bias": np.ones(8, np.float32)}, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    client.cancel(first)
    ended = client.wait(job.id, timeout_seconds=60)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.type == "/problems/checkpoint-unusable"
    assert ended.error.detail == "the checkpoint changed since the job was accepted"
