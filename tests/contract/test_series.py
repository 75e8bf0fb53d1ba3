"""Spectra along a training run, over HTTP: points are those of single jobs, and those that are known are reused."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.experiments.series import SeriesRequest
from hessian_spectrum.client.http import SpectrumClient

RNG = np.random.default_rng(5)
STEPS = (0, 10, 20)
SPECTRUM: dict[str, Any] = {
    "model": {"kind": "mlp", "widths": [3, 4, 2], "activation": "tanh"},
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
    "loss": "mse",
    "precision": "float64",
    "method": {"kind": "top-k", "k": 2, "tolerance": 1e-9},
}


def weights(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (2, 4), "1.bias": (2,)}
    return {f"layers.{name}": rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def uploads(server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    ids = {}
    with SpectrumClient(server.url) as client:
        for step in (*STEPS, 15):
            np.savez(path, **weights(step))
            ids[step] = client.upload_arrays(Path(path)).id
    return ids


def named(artifact_id: str) -> dict[str, str]:
    return {"kind": "artifact", "id": artifact_id}


def series(name: str, uploads: dict[int, str], *steps: int, **changes: Any) -> dict[str, Any]:
    points = [{"step": step, "parameters": named(uploads[step]), "learning_rate": 0.5} for step in steps]
    return {"kind": "series", "name": name, "points": points, **SPECTRUM, **changes}


def computed(client: SpectrumClient, request: dict[str, Any]) -> dict[str, Any]:
    job = client.wait(client.submit(request).id)
    assert job.state == "succeeded", job
    document: dict[str, Any] = client.result(job.id).model_dump()
    return document


def test_points_are_those_of_single_jobs(client: SpectrumClient, uploads: dict[int, str]) -> None:
    result = computed(client, series("single-jobs", uploads, 20, 0, 10))
    assert [point["step"] for point in result["points"]] == list(STEPS)
    for point in result["points"]:
        model = SPECTRUM["model"] | {"weights": named(uploads[point["step"]])}
        alone = computed(client, {"kind": "spectrum", **SPECTRUM, "model": model})
        scale = abs(alone["eigenpairs"][0]["value"])
        for own, other in zip(point["eigenpairs"], alone["eigenpairs"], strict=True):
            assert own["value"] == pytest.approx(other["value"], abs=1e-12 * scale)
        assert point["largest"]["value"] == point["eigenpairs"][0]["value"]
        assert point["loss"] == pytest.approx(alone["loss"], rel=1e-12)
        assert point["stability_threshold"] == 4.0


def test_known_points_are_reused(client: SpectrumClient, uploads: dict[int, str]) -> None:
    method = {"kind": "top-k", "k": 2, "tolerance": 1e-8}  # of this test alone
    first = computed(client, series("reused", uploads, 0, 10, method=method))
    longer = computed(client, series("reused", uploads, 0, 10, 20, method=method))
    # the time that a point took is its own: an equal one was not measured again
    assert longer["provenance"][:2] == first["provenance"]
    assert longer["points"][:2] == first["points"]
    assert longer["points"][2]["overlaps"]["since_step"] == 10


def test_a_series_grows_from_job_to_job(client: SpectrumClient, server: Any, uploads: dict[int, str]) -> None:
    computed(client, series("growing", uploads, 0, 20))
    computed(client, series("growing", uploads, 10, 15))
    found = httpx.get(f"{server.url}/v1/series/growing").json()
    assert [point["step"] for point in found["points"]] == [0, 10, 15, 20]
    assert len({job for point in found["points"] for job in point["jobs"]}) == 2
    # step 20 followed step 0 in its job, and follows 15 now
    assert [point["overlaps"] is None for point in found["points"]] == [True, True, False, True]
    address = f"{server.url}/v1/series/growing/result"
    assert httpx.get(f"{address}.png").content.startswith(b"\x89PNG")
    table = httpx.get(f"{address}.csv").text.splitlines()
    assert table[0].startswith("step,learning_rate,stability_threshold")
    assert len(table) == 5
    with np.load(io.BytesIO(httpx.get(f"{address}.npz").content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["step"], [0, 10, 15, 20])
        values = [point["largest"]["value"] for point in found["points"]]
        np.testing.assert_array_equal(arrays["largest"], values)
    assert client.series("growing").points[0].step == 0


def test_jobs_that_measure_something_else_are_left_out(
    client: SpectrumClient, server: Any, uploads: dict[int, str]
) -> None:
    first = client.wait(client.submit(series("changing", uploads, 0, 10)).id)
    second = client.wait(client.submit(series("changing", uploads, 10, 20, matrix="ggn")).id)
    found = httpx.get(f"{server.url}/v1/series/changing").json()
    assert [(point["step"], point["jobs"]) for point in found["points"]] == [(10, [second.id]), (20, [second.id])]
    assert found["other_jobs"] == [first.id]
    again = client.wait(client.submit(series("changing", uploads, 20)).id)
    found = httpx.get(f"{server.url}/v1/series/changing").json()
    assert [(point["step"], point["jobs"]) for point in found["points"]] == [
        (0, [first.id]),
        (10, [first.id]),
        (20, [again.id]),
    ]
    assert found["other_jobs"] == [second.id]


def test_methods_give_one_curve_together(client: SpectrumClient, server: Any, uploads: dict[int, str]) -> None:
    computed(client, series("together", uploads, 0, 10, method={"kind": "trace", "num_probes": 30}))
    ends = {"kind": "top-k", "k": 4, "which": "both-ends", "tolerance": 1e-9}
    computed(client, series("together", uploads, 0, 10, 20, method=ends))
    exact = computed(client, series("alone", uploads, 0, 10, 20, method={"kind": "exact"}))
    found = httpx.get(f"{server.url}/v1/series/together").json()
    assert found["other_jobs"] == []
    for point, truth in zip(found["points"], exact["points"], strict=True):
        for name in ("largest", "smallest"):
            scale = abs(truth["largest"]["value"])
            assert point[name]["value"] == pytest.approx(truth[name]["value"], abs=1e-7 * scale)
        if point["step"] < 20:
            assert point["trace"]["lower"] <= truth["trace"]["value"] <= point["trace"]["upper"]
    assert [point["trace"] is None for point in found["points"]] == [False, False, True]
    assert [len(point["overlaps"]["spaces"]) for point in found["points"][1:]] == [2, 2]
    assert httpx.get(f"{server.url}/v1/series/together/result.png").content.startswith(b"\x89PNG")
    header = httpx.get(f"{server.url}/v1/series/together/result.csv").text.splitlines()[0].split(",")
    assert {"largest", "smallest", "trace", "overlap_1", "overlap_1_lower", "stability_threshold"} <= set(header)


@pytest.mark.parametrize(
    "spelling",
    [
        {"loss": {"kind": "mse"}},
        {"weight_decay": 0.0},
        {"matrix": {"kind": "hessian"}},
        {"seed": 1},
        {"model": SPECTRUM["model"] | {"bias": True, "seed": 3}},
        {"method": SPECTRUM["method"] | {"which": "largest"}},
    ],
)
def test_other_spellings_of_the_settings_are_the_same(uploads: dict[int, str], spelling: dict[str, Any]) -> None:
    first = SeriesRequest.model_validate(series("spelled", uploads, 0))
    second = SeriesRequest.model_validate(series("spelled", uploads, 10) | spelling)
    assert second.settings_sha256 == first.settings_sha256
    assert second.method_sha256 == first.method_sha256


@pytest.mark.parametrize(
    ("change", "is_method"),
    [
        ({"loss": "huber"}, False),
        ({"weight_decay": 0.1}, False),
        ({"matrix": "ggn"}, False),
        ({"block": "layers.0.*"}, False),
        ({"data": SPECTRUM["data"] | {"seed": 1}}, False),
        ({"precision": "float32"}, True),
        ({"method": SPECTRUM["method"] | {"k": 3}}, True),
    ],
)
def test_other_settings_are_told_apart(uploads: dict[int, str], change: dict[str, Any], is_method: bool) -> None:
    first = SeriesRequest.model_validate(series("changed", uploads, 0))
    second = SeriesRequest.model_validate(series("changed", uploads, 10) | change)
    assert (second.settings_sha256 == first.settings_sha256) is is_method
    assert (second.method_sha256 == first.method_sha256) is not is_method


def test_overlaps_are_of_the_parameters_that_a_step_has(
    client: SpectrumClient, server: Any, uploads: dict[int, str]
) -> None:
    computed(client, series("replaced", uploads, 0, 10, 20))
    computed(client, series("replaced", uploads, 10))  # the same parameters
    found = httpx.get(f"{server.url}/v1/series/replaced").json()
    assert [point["overlaps"] is None for point in found["points"]] == [True, False, False]
    points = [{"step": 10, "parameters": named(uploads[15])}]
    computed(client, series("replaced", uploads, points=points))
    found = httpx.get(f"{server.url}/v1/series/replaced").json()
    assert [point["parameters_sha256"] for point in found["points"]] == [uploads[step] for step in (0, 15, 20)]
    assert [point["overlaps"] is None for point in found["points"]] == [True, True, True]


def test_overlaps_are_those_of_the_exact_eigenvectors(client: SpectrumClient, uploads: dict[int, str]) -> None:
    result = computed(client, series("overlaps", uploads, 0, 10))
    vectors = []
    for step in (0, 10):
        model = SPECTRUM["model"] | {"weights": named(uploads[step])}
        exact = {"kind": "spectrum", **SPECTRUM, "model": model, "method": {"kind": "exact", "eigenvectors": True}}
        job = client.wait(client.submit(exact).id)
        archive = io.BytesIO(httpx.get(f"{job.links.result}.npz").content)
        with np.load(archive, allow_pickle=False) as arrays:
            vectors.append(arrays["eigenvectors"][::-1])
    assert result["points"][0]["overlaps"] is None
    for space in result["points"][1]["overlaps"]["spaces"]:
        size = space["size"]
        exact_overlap = np.sum((vectors[0][:size] @ vectors[1][:size].T) ** 2) / size
        assert space["value"] == pytest.approx(exact_overlap, abs=1e-6)
        if size == 1:
            assert space["lower"] <= exact_overlap <= space["upper"]
            assert space["upper"] - space["lower"] < 1e-5
        else:
            assert (space["lower"], space["why"]) == (None, "the gap to the next eigenvalue is not known")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"points": []}, ["body", "points"]),
        ({"name": "../etc"}, ["body", "name"]),
        ({"train": {"num_steps": 1, "learning_rate": 0.1}}, ["body", "train"]),
        ({"tags": {"series": "another"}}, ["body", "tags", "series"]),
        ({"method": {"kind": "top-k", "k": 1000}}, ["body", "method", "k"]),
    ],
)
def test_a_bad_request_names_its_field(
    changes: dict[str, Any], place: list[str], server: Any, uploads: dict[int, str]
) -> None:
    answer = httpx.post(f"{server.url}/v1/jobs", json=series("bad", uploads, 0) | changes)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [place]


def test_bad_points_are_named(server: Any, uploads: dict[int, str]) -> None:
    request = series("bad", uploads, 0, 10)
    for change, place in (
        ({"step": 0}, ["step"]),
        ({"parameters": named("0" * 64)}, ["parameters"]),
        ({"checkpoint": "tiny-gpt2"}, ["parameters"]),
        ({"parameters": None}, ["parameters"]),
        ({"learning_rate": 0}, ["learning_rate"]),
    ):
        points = [request["points"][0], request["points"][1] | change]
        answer = httpx.post(f"{server.url}/v1/jobs", json=request | {"points": points})
        assert answer.status_code == 422, (change, answer.text)
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", "points", 1, *place]]


def test_checkpoints_are_points_too(client: SpectrumClient) -> None:
    request = {
        "kind": "series",
        "name": "checkpoints",
        "points": [{"step": 3, "checkpoint": "tiny-gpt2"}],
        "model": {"kind": "gpt2", "checkpoint": "tiny-gpt2"},
        "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
        "loss": "cross-entropy",
        "method": {"kind": "trace", "num_probes": 4},
    }
    result = computed(client, request)
    assert result["points"][0]["trace"]["standard_error"] > 0
    assert result["provenance"][0]["checkpoint"]["name"] == "tiny-gpt2"


def test_an_unknown_series_is_not_found(server: Any) -> None:
    answer = httpx.get(f"{server.url}/v1/series/nobody")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-series")
