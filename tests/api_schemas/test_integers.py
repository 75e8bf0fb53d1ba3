"""JSON has one kind of number: 20, 20.0 and 2e1 are the same integer in every field of every request."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.api_schemas.message import MAX_EXACT_INTEGER
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.service.routes.documentation import JOB_EXAMPLES

Path = tuple[str | int, ...]

# those that name an uploaded file need a store to look it up in
JOBS = {name: each["value"] for name, each in JOB_EXAMPLES.items() if "artifact" not in str(each["value"])}
DENSITY = {"law": "wishart", "ratio": 0.5, "num_points": 64, "sample": {"size": 20, "seed": 3, "num_bins": 7}}
DESCENT = {
    "model": {"kind": "linear", "w": [1.0], "v": [1.0]},
    "data": {"x": [1.0], "y": [1.0]},
    "descent": {"learning_rate": 0.1, "num_steps": 20},
}
CONV = {
    "kind": "spectrum",
    "model": {"kind": "conv", "channels": [4, 8], "kernel_size": 5, "stride": 2, "seed": 1},
    "data": {"kind": "digits", "num_samples": 20, "seed": 2},
    "loss": "cross-entropy",
    "method": {"kind": "top-k", "k": 2, "max_products": 50},
    "train": {"num_steps": 3, "learning_rate": 0.1, "batch_size": 2, "schedule": {"kind": "plateau", "patience": 4}},
    "seed": 7,
}
REQUESTS = [
    *[(JobRequest, request) for request in [*JOBS.values(), CONV]],
    (RandomMatrixRequest, DENSITY),
    (ClosedFormRequest, DESCENT),
]


def integers(value: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Where a document holds integers, and which; numbers of arrays need not be integers."""
    if type(value) is int:
        yield path, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from integers(part, (*path, name))
    elif isinstance(value, list) and not any(type(part) is float for part in value):
        for index, part in enumerate(value):
            yield from integers(part, (*path, index))


def changed(document: Any, path: Path, value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize(("kind", "request_"), REQUESTS)
def test_every_integer_may_be_spelled_as_any_number(kind: Any, request_: dict[str, Any]) -> None:
    wanted = kind.model_validate_json(json.dumps(request_))
    places = list(integers(request_))
    assert places
    for path, value in places:
        for text in (f"{value}.0", f"{value}e0", f"{value}0e-1"):
            body = json.dumps(changed(request_, path, "HERE")).replace('"HERE"', text)
            found = kind.model_validate_json(body)
            assert found == wanted
            assert found.model_dump_json() == wanted.model_dump_json()


@pytest.mark.parametrize(("kind", "request_"), REQUESTS)
@pytest.mark.parametrize("wrong", ["20.5", "true", '"20"', "1e16", f"{MAX_EXACT_INTEGER + 2}.0", "1e400"])
def test_nothing_else_is_an_integer(kind: Any, request_: dict[str, Any], wrong: str) -> None:
    for path, _ in integers(request_):
        body = json.dumps(changed(request_, path, "HERE")).replace('"HERE"', wrong)
        with pytest.raises(ValidationError):
            kind.model_validate_json(body)


def test_long_seeds_are_exact() -> None:
    def seed(text: str) -> int:
        return JobRequest.model_validate_json(json.dumps(CONV | {"seed": "S"}).replace('"S"', text)).root.seed

    assert seed("9007199254740992") == seed("9007199254740992.0") == seed("9.007199254740992e15") == 2**53
    assert seed("9007199254740993") == 2**53 + 1
    assert seed(str(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize("kind", [JobRequest, ClosedFormRequest, RandomMatrixRequest])
def test_the_published_schema_says_integer_as_before(kind: Any) -> None:
    assert '"type": "integer"' in json.dumps(kind.model_json_schema())
