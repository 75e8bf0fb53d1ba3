"""Several spectra of one job over HTTP: JSON, npz, pictures, and other smoothings of all of them."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

BODY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {
        "kind": "gpt2",
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "n_positions": 8,
        "vocab_size": 256,
        "attention_sink": {"mean_score": [None, 0.81]},
    },
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 6, "num_probes": 2, "num_points": 30},
}


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def job(api: httpx.Client) -> dict[str, Any]:
    answer = api.post("/v1/jobs", json=BODY, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "succeeded", answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_sink_has_its_spectrum(api: httpx.Client, job: dict[str, Any]) -> None:
    result = api.get(f"/v1/jobs/{job['id']}/result").json()
    assert result["kind"] == "spectrum-set"
    plain, sunk = result["spectra"]
    assert plain["attention_sink"]["mean_score_after"] == sunk["attention_sink"]["mean_score_before"]
    assert sunk["attention_sink"]["mean_score_after"] == pytest.approx(0.81, abs=1e-5)
    assert [score["block"] for score in sunk["attention_sink"]["blocks"]] == [0]
    assert plain["density"]["grid"] != sunk["density"]["grid"]


def test_npz_tells_the_spectra_apart(api: httpx.Client, job: dict[str, Any]) -> None:
    result = api.get(f"/v1/jobs/{job['id']}/result").json()
    content = api.get(f"/v1/jobs/{job['id']}/result.npz").content
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for index, spectrum in enumerate(result["spectra"]):
            np.testing.assert_array_equal(arrays[f"spectrum_{index}_density_values"], spectrum["density"]["values"])


def test_pictures_and_other_smoothings(api: httpx.Client, job: dict[str, Any]) -> None:
    png = api.get(f"/v1/jobs/{job['id']}/result.png")
    assert png.content.startswith(b"\x89PNG")
    svg = api.get(f"/v1/jobs/{job['id']}/result.svg").text
    assert "mean score 0.81" in svg
    assert "no sink" in svg
    again = api.get(f"/v1/jobs/{job['id']}/result", params={"num_points": 17, "kappa": 2.0}).json()
    assert [len(spectrum["density"]["grid"]) for spectrum in again["spectra"]] == [17, 17]


def test_blocks_of_other_methods_have_pictures(api: httpx.Client) -> None:
    for method in (
        {"kind": "exact"},
        {"kind": "top-k", "k": 2, "eigenvectors": False},
        {"kind": "trace", "num_probes": 2},
    ):
        body = BODY | {"method": method, "blocks": ["blocks.*.attn.c_proj.*", "ln_f.*"]}
        body["model"] = {name: value for name, value in BODY["model"].items() if name != "attention_sink"}
        job = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()
        assert job["state"] == "succeeded", job
        assert api.get(f"/v1/jobs/{job['id']}/result.png").content.startswith(b"\x89PNG")
        found = api.get(f"/v1/jobs/{job['id']}/result").json()
        assert [spectrum["block"] for spectrum in found["spectra"]] == body["blocks"]
        smoothing = api.get(f"/v1/jobs/{job['id']}/result", params={"kappa": 2.0})
        assert smoothing.status_code == 422
        assert "kappa" in smoothing.text


@pytest.mark.parametrize(
    ("sink", "field"),
    [
        ({"mean_score": 0.1}, ["body", "model", "attention_sink", "mean_score"]),
        ({}, ["body", "model", "attention_sink", "mean_score"]),
        ({"mean_score": [0.5, 1.0]}, ["body", "model", "attention_sink", "mean_score", 1]),
        ({"bias": "1"}, ["body", "model", "attention_sink", "bias"]),
    ],
)
def test_sinks_that_cannot_be_are_refused_at_their_field(
    api: httpx.Client, sink: dict[str, Any], field: list[Any]
) -> None:
    answer = api.post("/v1/jobs", json=BODY | {"model": BODY["model"] | {"attention_sink": sink}})
    assert answer.status_code == 422
    assert field in [error["loc"] for error in answer.json()["errors"]], answer.text
