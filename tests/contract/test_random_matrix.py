"""`POST /v1/random-matrix` as a stranger uses it."""

import concurrent.futures
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient

ROWS = json.loads((Path(__file__).parents[1] / "golden" / "random_matrix.json").read_text())["rows"]
HESSIAN = {"law": "hessian", "activation": "linear", "energy": 0.3, "ratio": 0.5}
INDEX_CURVE = {"law": "index-curve", "activation": "linear", "ratios": [0.5]}


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    points = [point for point, _ in row["points"]]
    match row["ensemble"]:
        case "wigner":
            return {"law": "wigner", "variance": row["variance"], "points": points}
        case "wishart":
            return {"law": "wishart", "variance": row["variance"], "ratio": row["ratio"], "points": points}
        case activation:
            hessian = {"law": "hessian", "activation": activation, "energy": row["energy"], "ratio": row["ratio"]}
            return hessian | {"points": points}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_golden_row_over_http(client: SpectrumClient, row: dict[str, Any]) -> None:
    found = client.random_matrix(request_of(row))
    assert isinstance(found, LawAnswer)
    assert found.grid == [point for point, _ in row["points"]]
    np.testing.assert_allclose(np.array(found.density, float), [d for _, d in row["points"]], rtol=0, atol=1e-9)
    if "edges" in row:
        np.testing.assert_allclose(found.support, [row["edges"]], rtol=0, atol=1e-10)
    assert found.atom_at_zero == pytest.approx(row.get("atom_at_zero", 0.0), abs=1e-9)
    expected = row.get("critical_energy")
    assert found.critical_energy is None if expected is None else found.critical_energy == pytest.approx(expected)
    assert any("critical_energy" in note for note in found.notes) is (expected is None)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_a_large_sample_follows_the_law(client: SpectrumClient, activation: str) -> None:
    found = client.random_matrix(HESSIAN | {"activation": activation, "sample": {"size": 2000, "seed": 1}})
    assert isinstance(found, LawAnswer)
    sample = found.sample
    assert sample is not None
    deviations = np.abs(np.array(sample.density) - np.array(sample.expected))
    assert sample.largest_deviation == pytest.approx(deviations.max())
    assert sample.largest_deviation < 0.02
    assert sample.negative_fraction == pytest.approx(found.index, abs=0.01)
    assert sum(sample.counts) == 2000


def test_a_grid_and_transforms(client: SpectrumClient) -> None:
    found = client.random_matrix(HESSIAN | {"transform_points": [[0.5, 1.0], [0.5, -1.0]]})
    assert isinstance(found, LawAnswer)
    assert len(found.grid) == 512
    assert (found.grid[0], found.grid[-1]) == tuple(found.support[0])
    density = np.array(found.density, float)
    assert np.trapezoid(density, found.grid) == pytest.approx(1, abs=1e-4)
    assert found.moments[:2] == pytest.approx([1.0, 2.1])
    assert found.alpha_0 == pytest.approx(0.0335006664)
    above, below = (complex(*pair) for pair in found.stieltjes if pair)
    assert above == below.conjugate()
    assert above.imag < 0
    assert found.empirical_critical_energies == {"tanh": 0.125, "linear": 0.25}


def test_a_free_sum_is_the_hessian_law_of_its_parts(client: SpectrumClient) -> None:
    laws = [{"law": "wigner", "variance": 0.6}, {"law": "wishart", "ratio": 0.5}]
    summed = client.random_matrix({"law": "free-sum", "laws": laws})
    whole = client.random_matrix(HESSIAN)
    assert isinstance(summed, LawAnswer)
    assert isinstance(whole, LawAnswer)
    assert (summed.density, summed.index, summed.support) == (whole.density, whole.index, whole.support)
    assert summed.parameters["laws"][1] == {"law": "wishart", "variance": 1.0, "ratio": 0.5}


def test_index_curves(client: SpectrumClient) -> None:
    found = client.random_matrix(INDEX_CURVE | {"ratios": [0.25, 0.5, 1.5], "energies": [0.0, 0.02, 0.3]})
    assert isinstance(found, IndexCurveAnswer)
    assert [curve.ratio for curve in found.curves] == [0.25, 0.5, 1.5]
    for curve in found.curves:
        for energy, index in zip(curve.energies, curve.index, strict=True):
            law = client.random_matrix(HESSIAN | {"energy": energy, "ratio": curve.ratio})
            assert isinstance(law, LawAnswer)
            assert (index, curve.critical_energy) == (pytest.approx(law.index, abs=1e-13), law.critical_energy)
    assert len(found.notes) == 1


@pytest.mark.parametrize("body", [HESSIAN, INDEX_CURVE])
@pytest.mark.parametrize(
    ("accept", "media_type", "begins"),
    [
        ("application/json", "application/json", b"{"),
        ("application/x-npz", "application/x-npz", b"PK"),
        ("image/png", "image/png", b"\x89PNG"),
        ("image/svg+xml, image/png;q=0.5", "image/svg+xml", b"<?xml"),
    ],
)
def test_formats(server: Any, body: dict[str, Any], accept: str, media_type: str, begins: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/random-matrix", json=body, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["vary"] == "Accept"
    assert response.content.startswith(begins)


def test_a_format_that_we_have_not(server: Any) -> None:
    response = httpx.post(f"{server.url}/v1/random-matrix", json=HESSIAN, headers={"Accept": "text/html"})
    assert response.status_code == 406
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"law": "wigner", "variance": -1.0}, "body.variance"),
        ({"law": "wigner", "variance": 0}, "body.variance"),
        ({"law": "wigner", "variance": 1e60}, "body.variance"),
        ({"law": "wigner", "variance": "1"}, "body.variance"),
        ({"law": "wishart", "ratio": 0}, "body.ratio"),
        ({"law": "wishart"}, "body.ratio"),
        (HESSIAN | {"energy": -0.1}, "body.energy"),
        (HESSIAN | {"energy": 1e-60}, "body.energy"),
        (HESSIAN | {"ratio": 0.0}, "body.ratio"),
        (HESSIAN | {"activation": "tanh"}, "body.activation"),
        (HESSIAN | {"num_points": 10**9}, "body.num_points"),
        (HESSIAN | {"num_points": 1}, "body.num_points"),
        (HESSIAN | {"points": []}, "body.points"),
        (HESSIAN | {"points": [0.0] * 100_001}, "body.points"),
        (HESSIAN | {"points": [0.0, "x"]}, "body.points.1"),
        (HESSIAN | {"points": [0.0], "num_points": 5}, "body.num_points"),
        (HESSIAN | {"transform_points": [[1.0]]}, "body.transform_points.0"),
        (HESSIAN | {"transform_points": [[1.0, 1e60]]}, "body.transform_points.0.1"),
        (HESSIAN | {"sample": {"size": 10**6}}, "body.sample.size"),
        (HESSIAN | {"sample": {"size": 10, "seed": -1}}, "body.sample.seed"),
        (HESSIAN | {"sample": {"size": 10, "num_bins": 10**9}}, "body.sample.num_bins"),
        (HESSIAN | {"wigner": 1}, "body.wigner"),
        ({"law": "free-sum", "laws": [{"law": "wigner"}]}, "body.laws"),
        ({"law": "free-sum", "laws": [{"law": "wigner"}, {"law": "wishart", "ratio": -1}]}, "body.laws.1.ratio"),
        ({"law": "free-sum", "laws": [{"law": "wigner"}, {"law": "free-sum"}]}, "body.laws.1.law"),
        (
            {"law": "free-sum", "laws": [{"law": "wigner"}, {"law": "wishart", "variance": 1e-20, "ratio": 1.0}]},
            "body.laws",
        ),
        (HESSIAN | {"transform_points": [[1e-300, 0.0]]}, "body.transform_points.0.0"),
        (INDEX_CURVE | {"ratios": [0.5, 0]}, "body.ratios.1"),
        (INDEX_CURVE | {"ratios": []}, "body.ratios"),
        (INDEX_CURVE | {"energies": [-1]}, "body.energies.0"),
        (INDEX_CURVE | {"energies": [1.0], "max_energy": 2.0}, "body.max_energy"),
        (INDEX_CURVE | {"ratios": [0.5] * 100, "num_points": 3000}, "body.num_points"),
        (INDEX_CURVE | {"points": [1.0]}, "body.points"),
        ({"law": "cauchy"}, "body.law"),
        ({}, "body.law"),
    ],
)
def test_a_problem_names_the_field(server: Any, body: dict[str, Any], field: str) -> None:
    response = httpx.post(f"{server.url}/v1/random-matrix", json=body)
    assert response.status_code == 422
    problem = response.json()
    assert ".".join(map(str, problem["errors"][0]["loc"])) == field
    assert problem["detail"].startswith(field)
    assert len(response.content) < 20_000


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"law": "wigner", "variance": NaN}', b"\xff\xfe\x00"])
def test_bodies_that_are_no_request(server: Any, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{server.url}/v1/random-matrix", content=content, headers=headers)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert httpx.post(f"{server.url}/v1/random-matrix", content=content).status_code == 415


def test_the_largest_requests_end_soon(client: SpectrumClient) -> None:
    relu = {"law": "hessian", "activation": "relu", "energy": 0.3, "ratio": 2.1}
    summed = {"law": "free-sum", "laws": [relu, relu | {"energy": 0.2, "ratio": 0.3}]}
    curves = {"law": "index-curve", "activation": "relu", "ratios": [0.02 * k for k in range(1, 101)]}
    for body in (summed | {"num_points": 100_000}, curves | {"num_points": 2000}):
        started = time.monotonic()
        client.random_matrix(body)
        assert time.monotonic() - started < 30  # the limit of a request is 120 s


def test_samples_wait_for_one_another_and_hold_up_nothing_else(server: Any, client: SpectrumClient) -> None:
    body = HESSIAN | {"num_points": 16, "sample": {"size": 1000, "num_bins": 4}}
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        samples = [
            threads.submit(httpx.post, f"{server.url}/v1/random-matrix", json=body, timeout=60) for _ in range(6)
        ]
        client.random_matrix(HESSIAN)
        assert not all(sample.done() for sample in samples)
        assert len({sample.result().content for sample in samples}) == 1


def test_refusals_reach_the_client(client: SpectrumClient) -> None:
    with pytest.raises(ProblemResponseError, match=r"body\.ratio"):
        client.random_matrix(HESSIAN | {"ratio": 0})
    assert client.random_matrix_file(HESSIAN, "png").startswith(b"\x89PNG")
