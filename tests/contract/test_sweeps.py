"""Sweeps over HTTP: a table whose rows are the numbers of single jobs."""

import csv
import io
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.client.http import SpectrumClient

BASE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [3, 4, 2], "activation": "tanh"},
    "data": {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2},
    "loss": "mse",
    "precision": "float64",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 2, "num_points": 32},
    "train": {"num_steps": 5, "learning_rate": 0.1},
}
OVER: dict[str, list[Any]] = {
    "model.seed": [0, 1],
    "model.widths": [[3, 4, 2], [3, 6, 2]],
    "train.learning_rate": [0.1, 0.2],
}


@pytest.fixture(scope="module")
def job(server: Any) -> Any:
    with SpectrumClient(server.url) as client:
        found = client.wait(client.submit({"kind": "sweep", "base": BASE, "over": OVER}).id)
    assert found.state == "succeeded", found
    assert (found.progress.phase, found.progress.unit) in (("points", "points"), ("storing", "bytes"))
    return found


def test_rows_are_those_of_single_jobs(job: Any, client: SpectrumClient) -> None:
    columns = client.result(job.id).model_dump()["columns"]
    assert list(zip(*(columns[name] for name in OVER), strict=True)) == [
        (seed, str(widths), rate) for seed, widths, rate in product(*OVER.values())
    ]
    for row, (seed, widths, rate) in enumerate(product(*OVER.values())):
        model, train = BASE["model"] | {"seed": seed, "widths": widths}, BASE["train"] | {"learning_rate": rate}
        alone = client.wait(client.submit(BASE | {"model": model, "train": train}).id)
        result = client.result(alone.id).model_dump()
        scale = abs(result["largest"]["value"])
        for name in ("largest", "smallest", "trace"):
            for part in ("value", "lower", "upper"):
                column = name if part == "value" else f"{name}_{part}"
                assert columns[column][row] == pytest.approx(result[name][part], abs=1e-10 * scale), (row, column)
        assert columns["loss"][row] == pytest.approx(result["loss"], rel=1e-10)
        assert columns["num_parameters"][row] == result["num_parameters"]


def test_the_table_has_three_formats(job: Any, server: Any) -> None:
    address = f"{server.url}/v1/jobs/{job.id}/result"
    columns = httpx.get(address).json()["columns"]
    rows = list(csv.DictReader(io.StringIO(httpx.get(f"{address}.csv").text)))
    assert list(rows[0]) == list(columns)
    assert [float(row["largest"]) for row in rows] == columns["largest"]
    assert httpx.get(address, headers={"Accept": "text/csv"}).headers["content-type"].startswith("text/csv")
    with np.load(io.BytesIO(httpx.get(f"{address}.npz").content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["largest"], columns["largest"])
    assert httpx.get(f"{address}.png").content.startswith(b"\x89PNG")


def test_a_point_without_a_spectrum_says_why(client: SpectrumClient) -> None:
    over = {"train.learning_rate": [0.1, 1e6]}
    base = BASE | {"train": {"num_steps": 50, "learning_rate": 0.1}}
    job = client.wait(client.submit({"kind": "sweep", "base": base, "over": over}).id)
    columns = client.result(job.id).model_dump()["columns"]
    assert [value is None for value in columns["largest"]] == [False, True]
    assert columns["problem"][0] is None
    assert "try a smaller learning rate" in columns["problem"][1]


def test_one_value_may_go_to_several_fields(client: SpectrumClient) -> None:
    base = BASE | {"train": {"num_steps": 5, "learning_rate": 0.1, "batch_size": 4}}
    job = client.wait(client.submit({"kind": "sweep", "base": base, "over": {"model.seed, train.seed": [0, 1]}}).id)
    own = client.result(job.id).model_dump()["columns"]["largest"][1]
    alone = base | {"model": BASE["model"] | {"seed": 1}, "train": base["train"] | {"seed": 1}}
    single = client.wait(client.submit(alone).id)
    assert own == pytest.approx(client.result(single.id).model_dump()["largest"]["value"], rel=1e-10)


def test_a_number_with_the_name_of_a_varied_field_keeps_a_column(client: SpectrumClient) -> None:
    losses = ["mse", {"kind": "huber", "delta": 0.1}]
    job = client.wait(client.submit({"kind": "sweep", "base": BASE, "over": {"loss": losses}}).id)
    columns = client.result(job.id).columns
    assert columns["loss"] == ["mse", str(losses[1])]
    assert columns["loss_value"][0] > columns["loss_value"][1] > 0


def test_the_estimate_is_that_of_all_points(server: Any) -> None:
    request = {"kind": "sweep", "base": BASE, "over": OVER}
    whole = httpx.post(f"{server.url}/v1/estimates", json=request).json()
    assert whole["num_products"] == 8 * httpx.post(f"{server.url}/v1/estimates", json=BASE).json()["num_products"]
    assert whole["num_training_passes"] == 8 * 5


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({"model.seed": [0, -1]}, ["over", "model.seed", 1]),
        ({"model.seed": [1, True]}, ["over", "model.seed", 1]),
        ({"model.sed": [0]}, ["over", "model.sed", 0]),
        ({"train.learning_rate": [0.1, "high"]}, ["over", "train.learning_rate", 1]),
        ({"method.num_steps": [1]}, ["over", "method.num_steps", 0]),
        ({"model.widths": [[3, 4, 2], [5, 4, 2]]}, ["over", "model.widths", 1]),
        ({"seed.x": [1]}, ["over", "seed.x", 0]),
        ({"loss.x": [1]}, ["over", "loss.x", 0]),
        ({"model.widths.x": [1]}, ["over", "model.widths.x", 0]),
        ({"train": [5], "train.learning_rate": [0.1]}, ["over", "train.learning_rate"]),
        ({"train.learning_rate": [0.1], "train": [None]}, ["over", "train"]),
        ({"model.seed, data.seed": [1], "model.seed": [2]}, ["over", "model.seed"]),
        ({"weight_decay": [1, True]}, ["over", "weight_decay", 1]),
        ({"kind": ["spectrum"]}, ["over", "kind"]),
        ({"webhook": ["http://lab.example/"]}, ["over", "webhook"]),
        ({"model.__class__": [1]}, ["over", "model.__class__", 0]),
        ({"seed": []}, ["over", "seed"]),
        ({}, ["over"]),
        ({"seed": list(range(200)), "model.seed": list(range(200))}, ["over"]),
        ({name: list(range(1000)) for name in ("seed", "model.seed", "data.seed", "weight_decay")}, ["over"]),
    ],
)
def test_a_bad_grid_names_the_value(over: dict[str, Any], place: list[Any], server: Any) -> None:
    answer = httpx.post(f"{server.url}/v1/jobs", json={"kind": "sweep", "base": BASE, "over": over})
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", *place]]


def test_a_sweep_has_one_webhook(server: Any) -> None:
    base = BASE | {"webhook": "http://lab.example/"}
    answer = httpx.post(f"{server.url}/v1/jobs", json={"kind": "sweep", "base": base, "over": OVER})
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", "base", "webhook"]]
