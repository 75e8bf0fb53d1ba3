"""`time_limit_seconds`: what a job may take of the workers' time."""

from typing import Any

import httpx
import pytest

from hessian_spectrum.client.http import SpectrumClient

SPECTRUM: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 12, 10]},
    "data": {"kind": "digits", "num_samples": 256},
    "loss": "cross-entropy",
    "method": {"kind": "exact"},
    "train": {"num_steps": 10_000_000, "learning_rate": 1e-9},
}
COMPARISON: dict[str, Any] = {
    "kind": "hessian-vs-ggn",
    "models": [{"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 256}],
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4},
    "pretrain": {"num_steps": 1_000_000, "batch_size": 2, "measure_every": [{"every": 1_000_000}]},
}


@pytest.mark.parametrize("request_", [SPECTRUM, COMPARISON], ids=["spectrum", "comparison"])
def test_a_job_ends_when_its_time_is_over(client: SpectrumClient, server: Any, request_: dict[str, Any]) -> None:
    job = client.submit(request_ | {"time_limit_seconds": 1.5}, wait_seconds=40)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error.type, job.error.status) == ("/problems/time-limit", 422)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert 1.4 < (job.finished_at - job.started_at).total_seconds() < 4.5
    assert httpx.get(f"{server.url}/v1/jobs/{job.id}/result").json()["type"] == "/problems/time-limit"


@pytest.mark.parametrize("limit", [0, -1.0, 1e9, "1"])
def test_times_that_no_job_may_take_are_refused(server: Any, limit: Any) -> None:
    refused = httpx.post(f"{server.url}/v1/jobs", json=SPECTRUM | {"time_limit_seconds": limit})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "time_limit_seconds"]
