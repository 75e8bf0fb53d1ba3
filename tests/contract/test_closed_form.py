"""`POST /v1/closed-form` as a stranger uses it."""

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.models import FAMILIES
from hessian_spectrum.client.http import SpectrumClient

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "closed_form.json").read_text())
CASES = GOLDEN["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_spectrum_over_http(client: SpectrumClient, case: dict[str, Any]) -> None:
    spectrum = client.closed_form({"model": case["model"], "data": case["data"]})
    expected = np.asarray(case["eigenvalues"])
    found = np.sort(np.repeat([e.value for e in spectrum.eigenvalues], [e.multiplicity for e in spectrum.eigenvalues]))
    scale = np.abs(expected).max()
    assert spectrum.num_parameters == len(expected)
    np.testing.assert_allclose(found, np.sort(expected), rtol=0, atol=1e-10 * scale)
    assert spectrum.trace == pytest.approx(case["trace"], abs=1e-10 * scale * len(expected))
    assert [e.value for e in spectrum.eigenvalues] == sorted((e.value for e in spectrum.eigenvalues), reverse=True)
    assert (spectrum.sharpness, spectrum.smallest) == (spectrum.eigenvalues[0].value, spectrum.eigenvalues[-1].value)


def test_the_golden_cases_are_all_there() -> None:
    assert len(CASES) == 46
    assert {case["model"]["kind"] for case in CASES} == set(FAMILIES)


def test_a_zero_eigenvalue_leaves_no_condition_number(client: SpectrumClient) -> None:
    spectrum = client.closed_form({"model": {"kind": "quadratic", "matrix": [[1.0, 1.0], [1.0, 1.0]]}})
    assert spectrum.condition_number is None
    assert spectrum.inertia.zero == 1
    assert spectrum.critical_point == "degenerate"
    assert any("condition" in note for note in spectrum.notes)


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"model": 1}',
    b'{"model": {"kind": "linear", "w": [NaN], "v": [1]}, "data": {"x": [1], "y": [1]}}',
    b'{"model": {"kind": "linear", "w": [1e999], "v": [1]}, "data": {"x": [1], "y": [1]}}',
    b'{"model": {"kind": "linear", "w": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    b'{"model": {"kind": "' + b"x" * 100_000 + b'"}}',
    b'{"' + b"y" * 100_000 + b'": 1}',
    b'{"model": {"kind": "linear", "w": [' + b'"a",' * 100_000 + b'"a"], "v": [1]}, "data": {}}',
    b'{"model": {"kind": "quadratic", "matrix": [' + b'["a"],' * 50_000 + b"[1]]}}",
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("path", ["/v1/closed-form", "/v1/jobs"])
@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bad_bodies_get_a_short_problem(client: SpectrumClient, server: Any, path: str, body: bytes) -> None:
    response = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 20_000
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert client.closed_form({"model": {"kind": "quadratic", "matrix": [[2.0]]}}).sharpness == 2.0


ATTENTION = {"kind": "self-attention", "w_v": 1.0, "w_q": [1.0], "w_k": [1.0]}
LINEAR = {"kind": "linear", "w": [1.0, 2.0], "v": [1.0, 0.5]}
DATA = {"x": [1.0, 2.0], "y": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": {"kind": "cubic"}, "data": DATA}, "body.model.kind"),
        ({"model": {"w": [1.0]}, "data": DATA}, "body.model.kind"),
        ({"model": LINEAR | {"w": [1.0]}, "data": DATA}, "body.model.v"),
        ({"model": LINEAR | {"w": [1.0, "x"]}, "data": DATA}, "body.model.w.1"),
        ({"model": LINEAR, "data": DATA | {"x": []}}, "body.data.x"),
        ({"model": LINEAR, "data": DATA | {"y": [1.0]}}, "body.data.y"),
        ({"model": {"kind": "quadratic", "matrix": [[1.0, 2.0]]}}, "body.model.matrix"),
        ({"model": {"kind": "quadratic", "matrix": [[1.0, 2.0], [3.0, 1.0]]}}, "body.model.matrix"),
        ({"model": {"kind": "quadratic", "matrix": [[1.0, 2.0], [3.0]]}}, "body.model.matrix.1"),
        ({"model": ATTENTION, "data": {"x": [[1.0] * 2001], "y": [[1.0] * 2001]}}, "body.data.x"),
        ({"model": LINEAR | {"w": [1e308] * 2, "v": [1e308] * 2}, "data": DATA}, "body.model"),
    ],
)
def test_a_problem_names_the_field_as_it_stands_in_the_request(server: Any, body: dict[str, Any], field: str) -> None:
    response = httpx.post(f"{server.url}/v1/closed-form", json=body)
    assert response.status_code == 422
    problem = response.json()
    assert ".".join(map(str, problem["errors"][0]["loc"])) == field
    assert problem["detail"].startswith(field)
    assert problem["instance"] == "/v1/closed-form"


def test_attention_as_long_as_it_is_accepted(client: SpectrumClient) -> None:
    row = np.linspace(-1.0, 1.0, 2000).tolist()
    spectrum = client.closed_form({"model": ATTENTION, "data": {"x": [row], "y": [row]}})
    assert spectrum.num_parameters == 3


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", None])
@pytest.mark.parametrize("path", ["/v1/closed-form", "/v1/jobs"])
def test_a_body_that_is_not_json_gets_a_problem(server: Any, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = httpx.post(f"{server.url}{path}", content=b'{"kind": "spectrum"}', headers=headers)
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["detail"]


def test_a_body_that_is_too_large_gets_a_problem(server: Any) -> None:
    headers = {"Content-Type": "application/json"}
    body = b" " * (16 * 2**20 + 1)
    for content in (body, iter([body])):
        response = httpx.post(f"{server.url}/v1/closed-form", content=content, headers=headers)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (problem["type"], problem["instance"]) == ("/problems/body-too-large", "/v1/closed-form")


def test_numbers_beyond_floating_point_get_a_problem(server: Any) -> None:
    body = {"model": {"kind": "linear", "w": [1e200], "v": [1e200]}, "data": {"x": [1e200], "y": [1.0]}}
    response = httpx.post(f"{server.url}/v1/closed-form", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/closed-form", "/v1/nothing", "/v1/jobs/1/2/3"])
def test_wrong_methods_and_paths_get_a_problem(server: Any, path: str) -> None:
    response = httpx.put(f"{server.url}{path}")
    assert response.status_code in (404, 405)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/closed-form", "/v1/jobs", "/v1/random-matrix"])
def test_a_compressed_body_is_refused_by_name(server: Any, path: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = httpx.post(f"{server.url}{path}", content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 415
    assert "Content-Encoding" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "names"),
    [("/v1/closed-form", ("linear", "quadratic")), ("/v1/random-matrix", ("wigner", "index-curve"))],
)
def test_a_missing_kind_is_answered_with_those_there_are(server: Any, path: str, names: tuple[str, ...]) -> None:
    response = httpx.post(f"{server.url}{path}", json={"model": {"w": [1.0]}, "data": DATA})
    assert response.status_code == 422
    assert all(f"'{name}'" in response.text for name in names)


def test_descent_gives_loss_outliers_bulk_and_phase_of_every_step(client: SpectrumClient) -> None:
    answer = client.closed_form({"model": LINEAR, "data": DATA, "descent": {"learning_rate": 0.01, "num_steps": 5}})
    path = answer.descent
    assert path is not None
    outliers = [e.value for e in answer.eigenvalues if e.role == "outlier"]
    assert path.outliers[0] == pytest.approx(outliers, rel=1e-13)
    assert {len(values) for values in (path.loss, path.outliers, path.bulk, path.c, path.phase)} == {6}
    assert (path.fixed_dimensions, path.diverged_at) == (2, None)
    assert path.loss[-1] < path.loss[0]
