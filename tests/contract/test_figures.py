"""Figures of the sources over HTTP: the list, the numbers, the picture, the verdicts, and bad overrides."""

import csv
import io
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.results import Curve, Panel
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.results.plots.panels import plot_panels
from hessian_spectrum.worker.figures.measurement import figure_contents, measures
from tests.fixtures.longer import long

SHORT = ("cracking-1", long("cracking-3"), long("cracking-7"), "poster-bulk")
"""Figures that take seconds at the scale `quick`; tests/worker/figures has the others, at smaller sizes."""


def test_every_figure_can_be_computed() -> None:
    assert set(figure_contents()) == set(FIGURES)
    for figure in FIGURES.values():
        for scale in ("quick", "paper"):
            parameters = figure.parameters.model_validate(figure.defaults(scale))
            assert {type(each) for each in figure.points(parameters)} <= set(measures())


def test_the_list_has_every_figure_with_both_costs(server: Any) -> None:
    figures = httpx.get(f"{server.url}/v1/figures", timeout=60).json()["figures"]
    assert [each["figure"] for each in figures] == list(FIGURES)
    for each in figures:
        assert each["source"].startswith(("Cracking the Hessian", "Poster", "Lecture")), each["source"]
        assert set(each["quick"]) <= set(each["parameters"]["properties"])
        assert all("description" in field for field in each["parameters"]["properties"].values()), each["figure"]
        quick, paper = each["estimates"]["quick"], each["estimates"]["paper"]
        assert 0 < quick["seconds"] <= paper["seconds"]
        assert quick["num_parameters"] <= paper["num_parameters"]


@pytest.mark.parametrize("name", SHORT)
def test_a_figure_has_numbers_a_picture_and_verdicts(name: str, server: Any, client: SpectrumClient) -> None:
    job = client.wait(client.submit({"kind": "figure", "figure": name}).id)
    assert job.state == "succeeded", job
    address = f"{server.url}/v1/jobs/{job.id}/result"
    result = httpx.get(address).json()
    assert (result["figure"], result["scale"], result["source"]) == (name, "quick", FIGURES[name].source)
    assert result["parameters"] == FIGURES[name].parameters.model_validate(FIGURES[name].quick).model_dump(mode="json")
    assert result["points"]
    assert result["choices"]
    assert any(verdict["holds"] for verdict in result["verdicts"])
    for verdict in result["verdicts"]:
        assert None in (verdict["lower"], verdict["upper"]) or verdict["lower"] <= verdict["upper"]
    rows = list(csv.DictReader(io.StringIO(httpx.get(f"{address}.csv").text)))
    assert len(rows) == len(result["points"])
    with np.load(io.BytesIO(httpx.get(f"{address}.npz").content), allow_pickle=False) as arrays:
        first = result["panels"][0]["curves"][0]
        if first["x"]:
            np.testing.assert_array_equal(arrays["panel_0_curve_0_x"], first["x"])
    for suffix, begin in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert httpx.get(f"{address}.{suffix}").content.startswith(begin)


def test_equal_requests_are_one(client: SpectrumClient) -> None:
    first = client.run({"kind": "figure", "figure": "poster-bulk"})
    spelled = {"kind": "figure", "figure": "poster-bulk", "overrides": FIGURES["poster-bulk"].quick}
    job = client.wait(client.submit(spelled).id)
    assert job.cached
    assert client.result(job.id) == first


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"figure": "cracking-99"}, ["figure"], "there is no such figure; there are cracking-1"),
        ({"scale": "large"}, ["scale"], "should be"),
        ({"overrides": {"widht": 3}}, ["overrides", "widht"], ""),
        ({"overrides": {"seeds": "all"}}, ["overrides", "seeds"], ""),
        ({"overrides": {"width": 0}}, ["overrides", "width"], ""),
        ({"figure": "cracking-5", "scale": "paper"}, ["scale"], "hours"),
        ({"figure": "cracking-6", "overrides": {"checkpoint": "nothing"}}, ["overrides", "checkpoint"], ""),
        (
            {"figure": "cracking-6", "overrides": {"sizes": {"n_head": 5, "n_embd": 16}}},
            ["overrides", "sizes", "n_head"],
            "divide",
        ),
        (
            {"figure": "cracking-6", "overrides": {"sizes": {"n_embd": 16, "n_head": 2, "vocab_size": 2}}},
            ["overrides", "sizes", "vocab_size"],
            "",
        ),
        ({"overrides": {"scale": "paper"}}, ["overrides", "scale"], "no such parameter of cracking-7; there are"),
        ({"overrides": {"widths": 3}}, ["overrides", "widths"], "did you mean width?"),
    ],
)
def test_bad_overrides_are_named(changes: dict[str, Any], place: list[str], message: str, server: Any) -> None:
    answer = httpx.post(f"{server.url}/v1/jobs", json={"kind": "figure", "figure": "cracking-7"} | changes)
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["loc"] == ["body", *place], error
    assert message in error["msg"]


@pytest.mark.parametrize("overrides", [{}, {"num_seeds": 7}])
def test_a_figure_that_takes_longer_than_its_limit_is_refused_at_once(overrides: dict[str, Any], server: Any) -> None:
    request = {"kind": "figure", "figure": "cracking-8", "overrides": overrides}
    seconds = httpx.post(f"{server.url}/v1/estimates", json=request).json()["seconds"]
    answer = httpx.post(f"{server.url}/v1/jobs", json=request | {"time_limit_seconds": seconds / 5})
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["loc"] == ["body", "overrides" if overrides else "scale"]
    assert f"takes about {seconds:.3g} s on two cores; jobs may run for {seconds / 5:.3g} s" in error["msg"]


def test_a_figure_that_a_gpu_may_compute_within_its_limit_is_accepted(server: Any, client: SpectrumClient) -> None:
    request = {"kind": "figure", "figure": "cracking-6", "overrides": {"seed": 71}}
    seconds = httpx.post(f"{server.url}/v1/estimates", json=request).json()["seconds"]
    job = client.submit(request | {"time_limit_seconds": seconds / 5})
    client.cancel(job.id)


def test_the_estimate_says_how_long_a_figure_takes(server: Any) -> None:
    request = {"kind": "figure", "figure": "cracking-4", "scale": "paper"}
    estimate = httpx.post(f"{server.url}/v1/estimates", json=request).json()
    assert estimate["seconds"] > 60
    assert estimate["fits"] is True


def test_a_checkpoint_replaces_the_trained_model(client: SpectrumClient) -> None:
    overrides = {
        "checkpoint": "tiny-gpt2",
        "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
        "mean_scores": [0.5],
        "num_lanczos_steps": 6,
        "num_probes": 2,
        "num_points": 32,
    }
    result = client.run({"kind": "figure", "figure": "cracking-6", "overrides": overrides}).model_dump()
    assert result["parameters"]["checkpoint_sha256"]
    assert [round(row["mean_score"], 3) for row in result["points"]][1:] == [0.5]


def test_no_panel_is_too_odd_to_draw() -> None:
    """Empty curves, gaps, zeros on logarithmic axes and one value alone."""
    curves = [
        Curve(label="", x=[], y=[]),
        Curve(label="$a$ 100 %", x=[0.0, 1.0], y=[None, 0.0], lower=[None, 0.0], upper=[None, 1.0]),
        Curve(label="$", x=[1.0], y=[-1.0], style="bars"),
        Curve(label="limit", x=[], y=[0.5], style="horizontal"),
        Curve(label="", x=[2.0], y=[], style="vertical"),
    ]
    for x_scale in ("linear", "log", "symlog"):
        panels = [
            Panel(title="t", x_label="x", y_label="y", x_scale=x_scale, y_scale=y_scale, curves=curves)
            for y_scale in ("linear", "log", "symlog")
        ]
        assert plot_panels(panels, "title").file("svg").startswith(b"<?xml")
