"""Batches of closed forms equal single ones; wrong items fail alone, named by their index."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.closed_form_batch import FailedItem
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.service.routes.closed_form_batch import CHUNK_BYTES, CHUNK_ITEMS, chunks_of
from hessian_spectrum.service.routes.documentation import CLOSED_FORM_EXAMPLES

ITEMS: list[dict[str, Any]] = [each["value"] for each in CLOSED_FORM_EXAMPLES.values()]
NDJSON = {"Content-Type": "application/x-ndjson"}
PATH = "/v1/closed-form/batch"


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def alone(http: httpx.Client) -> list[dict[str, Any]]:
    return [http.post("/v1/closed-form", json=item).json() for item in ITEMS]


def lines(items: list[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def test_json_has_the_results_of_single_requests(http: httpx.Client, alone: list[dict[str, Any]]) -> None:
    response = http.post(PATH, json={"items": ITEMS})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"results": alone}


def test_lines_have_the_results_of_single_requests(http: httpx.Client, alone: list[dict[str, Any]]) -> None:
    many = 100
    response = http.post(PATH, content=lines(ITEMS * many), headers=NDJSON)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in response.text.splitlines()] == alone * many


@pytest.mark.parametrize("is_json", [True, False])
def test_a_wrong_item_fails_alone(http: httpx.Client, alone: list[dict[str, Any]], is_json: bool) -> None:
    wrong: list[tuple[Any, list[str | int]]] = [
        ({"model": {"kind": "linear", "w": [1.0], "v": [1.0, 2.0]}, "data": {"x": [1.0], "y": [1.0]}}, ["model"]),
        ({"model": {"kind": "nothing"}}, ["model", "kind"]),
        ({**ITEMS[0], "colour": 1}, ["colour"]),
        (17, []),
    ]
    items = [part for each, _ in wrong for part in (ITEMS[0], each)]
    if is_json:
        results = http.post(PATH, json={"items": items}).json()["results"]
    else:
        results = [json.loads(line) for line in http.post(PATH, content=lines(items), headers=NDJSON).text.splitlines()]
    assert results[::2] == [alone[0]] * len(wrong)
    for index, (result, (_, path)) in enumerate(zip(results[1::2], wrong, strict=True)):
        problem, place = result["problem"], 2 * index + 1
        assert set(result) == {"problem"}
        assert problem["status"] == 422
        assert problem["instance"] == f"{PATH}#/items/{place}"
        location = problem["errors"][0]["loc"]
        assert location[: 3 + len(path)] == ["body", "items", place, *path]
        assert problem["detail"].startswith(".".join(map(str, location)))


def test_a_number_beyond_floating_point_fails_alone(http: httpx.Client, alone: list[dict[str, Any]]) -> None:
    huge = {"model": {"kind": "linear", "w": [1e200], "v": [1e200]}, "data": {"x": [1e200], "y": [1.0]}}
    single = http.post("/v1/closed-form", json=huge)
    first, second = http.post(PATH, json={"items": [huge, ITEMS[0]]}).json()["results"]
    assert first["problem"]["title"] == single.json()["title"]
    assert first["problem"]["instance"] == f"{PATH}#/items/0"
    assert second == alone[0]


def test_a_line_that_is_no_json_fails_alone_and_blank_lines_are_passed_over(
    http: httpx.Client, alone: list[dict[str, Any]]
) -> None:
    good = json.dumps(ITEMS[0]).encode()
    body = b"\n".join([good, b"", b'{"model": ', b"  ", b'{"model": 1, "model": 2}', good])
    results = [json.loads(line) for line in http.post(PATH, content=body, headers=NDJSON).text.splitlines()]
    assert len(results) == 4
    assert (results[0], results[3]) == (alone[0], alone[0])
    assert [each["problem"]["instance"][-1] for each in results[1:3]] == ["1", "2"]


@pytest.mark.parametrize(
    ("body", "status", "location"),
    [
        (b'{"items": 1}', 422, ["body", "items"]),
        (b'{"item": []}', 422, ["body", "items"]),
        (b"[]", 422, ["body"]),
        (b'{"items": [', 422, ["body"]),
        (b'{"items": [' + b"1," * 100_000 + b"1]}", 422, ["body", "items"]),
    ],
    ids=["no list", "no items", "no object", "no json", "too many"],
)
def test_a_body_that_is_no_batch_is_refused(http: httpx.Client, body: bytes, status: int, location: list[str]) -> None:
    response = http.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert response.json()["errors"][0]["loc"] == location


def test_other_requests_are_refused(http: httpx.Client) -> None:
    assert http.post(PATH, content=b"{}\n" * 100_001, headers=NDJSON).status_code == 422
    assert http.post(PATH, content=b"a", headers={"Content-Type": "text/plain"}).status_code == 415
    assert http.post(PATH, content=b"a", headers={**NDJSON, "Content-Encoding": "gzip"}).status_code == 415


def test_no_items_have_no_results(http: httpx.Client) -> None:
    assert http.post(PATH, json={"items": []}).json() == {"results": []}
    assert http.post(PATH, content=b"\n\n", headers=NDJSON).content == b""


def test_results_are_sent_while_later_items_are_computed(http: httpx.Client) -> None:
    slow = {
        "model": {"kind": "self-attention", "w_v": 0.9, "w_q": [0.3], "w_k": [0.1]},
        "data": {"x": np.ones((1, 1500)).tolist(), "y": np.ones((1, 1500)).tolist()},
        "eigenvectors": "outliers",
    }
    with http.stream("POST", PATH, content=lines([ITEMS[0], *[slow] * 40]), headers=NDJSON) as response:
        received = response.iter_lines()
        assert json.loads(next(received))["kind"] == ITEMS[0]["model"]["kind"]
        num_bytes = response.num_bytes_downloaded
        assert sum(1 for _ in received) == 40
        assert response.num_bytes_downloaded > 10 * num_bytes


def test_items_are_divided_by_their_number_and_size() -> None:
    small, large = b'{"a": 1}', b'{"eigenvectors": "all"}'
    assert list(chunks_of([])) == []
    assert list(chunks_of([small] * 3)) == [range(3)]
    assert list(chunks_of([small] * (CHUNK_ITEMS + 1))) == [range(CHUNK_ITEMS), range(CHUNK_ITEMS, CHUNK_ITEMS + 1)]
    assert list(chunks_of([small, large, large, small, small])) == [range(1), range(1, 2), range(2, 3), range(3, 5)]
    assert list(chunks_of([small, b"x" * CHUNK_BYTES, small])) == [range(1), range(1, 2), range(2, 3)]
    assert list(chunks_of([b'{"desc\\u0065nt": {}}', small])) == [range(1), range(1, 2)]


def test_the_client_takes_arrays_and_returns_problems(client: SpectrumClient, alone: list[dict[str, Any]]) -> None:
    model = ITEMS[0]["model"] | {name: np.array(ITEMS[0]["model"][name]) for name in ("w", "v")}
    data = {name: np.array(values) for name, values in ITEMS[0]["data"].items()}
    spectrum, failed = client.closed_forms([{"model": model, "data": data}, {"model": {"kind": "linear"}}])
    assert spectrum == ClosedFormSpectrum.model_validate(alone[0])
    assert isinstance(failed, FailedItem)
    assert failed.problem.errors is not None
    assert failed.problem.errors[0].loc[:3] == ["body", "items", 1]
