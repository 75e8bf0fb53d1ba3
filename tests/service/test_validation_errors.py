"""What is wrong with a request is said with the field's name as it stands there, in words, and with what was meant."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.api_schemas.message import SENTENCES
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.request_parsing import validate_document
from hessian_spectrum.service.validation_errors import resolve_location, similar_name, unknown_name

MLP = {"kind": "mlp", "widths": [1, 2, 1]}
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": MLP,
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
STREAM = {"kind": "text", "name": "pydoc-topics", "num_sequences": 1, "sequence_length": 8}


X = {"dtype": "F64", "shape": [3, 2]}


def refusals(message: type[BaseModel], document: Any) -> dict[str, str]:
    with pytest.raises(ProblemError) as caught:
        validate_document(message, document)
    errors = caught.value.problem.errors
    assert errors is not None
    return {".".join(map(str, error.loc)): error.msg for error in errors}


@pytest.mark.parametrize(
    ("message", "document", "field", "said"),
    [
        # an endpoint names its own kinds, and no others
        (JobRequest, {}, "kind", "must be one of 'spectrum', 'hessian-vs-ggn'"),
        (
            RandomMatrixRequest,
            {},
            "law",
            "must be one of 'wigner', 'wishart', 'hessian', 'free-sum', 'index-curve'",
        ),
        (
            RandomMatrixRequest,
            {"law": "free-sum", "laws": [{"law": "wigner"}, {"law": "wishert"}]},
            "laws.1.law",
            "must be one of 'wigner', 'wishart', 'hessian'; did you mean 'wishart'?",
        ),
        (
            JobRequest,
            JOB | {"method": {}},
            "method.kind",
            "must be one of 'exact', 'lanczos', 'top-k', 'trace'",
        ),
        # the near name comes from the message that refused
        (
            JobRequest,
            JOB | {"model": {"kind": "mlp", "width": [1]}},
            "model.width",
            "no such field; did you mean widths?",
        ),
        (
            JobRequest,
            JOB | {"method": {"kind": "lanczos", "numSteps": 9}},
            "method.numSteps",
            "no such field; did you mean num_steps?",
        ),
        (
            JobRequest,
            {"kind": "hessian-vs-ggn", "models": [{"kind": "gpt2", "n-layer": 1}], "data": STREAM},
            "models.0.n-layer",
            "no such field; did you mean n_layer?",
        ),
        (
            JobRequest,
            JOB | {"model": {"kind": "mlp", "weights": [{"weight": [[1.0]], "biases": [1.0]}]}},
            "model.weights.0.biases",
            "no such field; did you mean bias?",
        ),
        (
            ClosedFormRequest,
            {"model": {"kind": "linear", "w": [1.0], "v": [1.0]}, "data": {"z": [1.0]}},
            "data.z",
            "no such field; there are x, y",
        ),
        # a name is no suggestion for itself
        (
            JobRequest,
            {"kind": "figure", "figure": "cracking-6", "overrides": {"sizes": {"scale": 1}}},
            "overrides.sizes.scale",
            "no such field",
        ),
        # names that are also those of members of unions are fields like others
        (JobRequest, JOB | {"mlp": 1}, "mlp", "no such field; there are kind, model, data,"),
        (JobRequest, JOB | {"model": MLP | {"mlp": 1}}, "model.mlp", "no such field; there are kind, widths,"),
        (JobRequest, JOB | {"data": {"kind": "inline", "x": [[1.0], [1, 2]], "y": [1, 2]}}, "data.x.1", "row 1 holds"),
        # words instead of patterns
        (JobRequest, JOB | {"data": {"kind": "artifact", "id": "x"}}, "data.id", "must be 64 hexadecimal digits"),
        (JobRequest, JOB | {"tags": {"a\n": "b"}}, "tags.a\n", "must hold no control characters"),
    ],
)
def test_a_body_is_refused_in_words(message: type[BaseModel], document: Any, field: str, said: str) -> None:
    assert refusals(message, document)[f"body.{field}"].startswith(said)


def test_the_path_of_an_error_is_that_of_the_request() -> None:
    place = resolve_location(JobRequest, ("spectrum", "model", "mlp", "weights", "layers", 0, "weight"))
    assert place.path == ["model", "weights", 0, "weight"]
    assert "unknown" in resolve_location(JobRequest, ("spectrum", "unknown", "further")).path


def test_near_names() -> None:
    names = ("learning_rate", "num_steps", "batch_size")
    assert similar_name("learningRate", names) == similar_name("Learning-Rate", names) == "learning_rate"
    assert similar_name("batch", names) == "batch_size"
    assert similar_name("", names) is similar_name("x" * 100_000, names) is None
    assert unknown_name("field", "momentum", names) == "no such field; there are learning_rate, num_steps, batch_size"
    assert len(unknown_name("field", "zzz", [f"name_{index}" for index in range(1000)])) < 300


def patterns(part: Any) -> Iterator[str]:
    """Every pattern in an OpenAPI document."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        for each in part.values():
            yield from patterns(each)
    elif isinstance(part, list):
        for each in part:
            yield from patterns(each)


def test_every_pattern_has_a_sentence(tmp_path: Path) -> None:
    app = create_app(ServiceSettings(redis_url="redis://127.0.0.1:1/0", results_dir=tmp_path))
    found = set(patterns(app.openapi()))
    assert len(found) >= 6
    assert found <= set(SENTENCES)


@pytest.mark.parametrize(
    ("address", "field", "said"),
    [
        ("jobs/no-such-job", "path.job_id", "must be the id of a job: 32 hexadecimal digits in lower case"),
        ("artifacts/1", "path.artifact_id", "must be 64 hexadecimal digits in lower case"),
        ("models/-a", "path.model_name", "must be the name of a checkpoint: up to 128 letters"),
        ("jobs?tag=a", "query.tag", "must be a name and a value with a colon between them"),
        ("jobs?owner=you", "query.owner", "must be me, or the id of a key: 12 hexadecimal digits"),
        ("jobs?page_token=a", "query.page_token", "must be the next_page_token of another page"),
        ("jobs?pagesize=9", "query.pagesize", "no such parameter; did you mean page_size?"),
        (f"jobs/{'0' * 32}?timeout=9", "query.timeout", "no such parameter; there is wait"),
        (f"jobs/{'0' * 32}/result?num_point=9", "query.num_point", "no such parameter; did you mean num_points?"),
    ],
)
def test_an_address_is_refused_in_words(server: Any, address: str, field: str, said: str) -> None:
    problem = httpx.get(f"{server.url}/v1/{address}").json()
    assert problem["status"] == 422
    (error,) = problem["errors"]
    assert ".".join(error["loc"]) == field
    assert error["msg"].startswith(said)
    assert problem["detail"].startswith(f"{field}: {said}")


def test_no_route_ignores_a_parameter(server: Any) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    operations = [(method, path) for path, item in document["paths"].items() for method in item]
    assert len(operations) >= 18
    for method, path in [*operations, ("get", "/metrics"), ("get", "/docs")]:
        address = re.sub(r"\{name\}", "png", re.sub(r"\{\w+\}", "0" * 32, path))
        answer = httpx.request(method, f"{server.url}{address}?no_such_parameter=1")
        assert answer.status_code == 422, (method, path)
        assert answer.json()["errors"][0]["loc"] == ["query", "no_such_parameter"]


@pytest.mark.parametrize(
    ("scaling", "place", "words"),
    [
        ({"std": 0}, "std", "greater than 0"),
        ({"std": [1, 0]}, "std.1", "greater than 0"),
        ({"std": []}, "std", "at least 1 item"),
        ({"mean": "0"}, "mean", "valid number"),
        ({"mean": [0, None]}, "mean.1", "valid number"),
    ],
)
def test_a_number_or_several_have_one_error_at_the_field(scaling: Any, place: str, words: str) -> None:
    data = {"kind": "artifact", "id": 64 * "0", "x": X, "y": X, "scaling": {"x": scaling}}
    ((where, message),) = refusals(JobRequest, JOB | {"data": data}).items()
    assert where == f"body.data.scaling.x.{place}"
    assert words in message


@pytest.mark.parametrize(
    ("y", "num_outputs", "words"),
    [
        ([[0.0], [1.0]], 3, "whole numbers from 0 of shape (n,)"),
        ([[1.0, 0.0], [0.0, 1.0]], 2, "use the loss kl"),
        ([[0.0], [1.0]], 1, "use the loss binary-cross-entropy"),
    ],
)
def test_labels_of_another_shape_are_explained(y: Any, num_outputs: int, words: str) -> None:
    model = MLP | {"widths": [1, 2, num_outputs]}
    request = JOB | {"model": model, "data": JOB["data"] | {"y": y}, "loss": "cross-entropy"}
    assert refusals(JobRequest, request)["body.data.y"].endswith(words)
