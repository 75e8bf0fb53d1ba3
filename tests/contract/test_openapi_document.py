"""The OpenAPI document as generators of clients read it; `tests/clients` generates and runs some."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn import Pretraining
from hessian_spectrum.api_schemas.methods import LanczosMethod
from hessian_spectrum.api_schemas.models import Mlp
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.service.request_parsing import MEDIA_TYPES

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return answer


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    return [(method, path, each) for path, item in document["paths"].items() for method, each in item.items()]


@pytest.fixture(scope="module")
def schemas(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


def parts(of: Any) -> Iterator[dict[str, Any]]:
    """Every object within."""
    if isinstance(of, dict):
        yield of
    for each in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
        yield from parts(each)


def named(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).removeprefix("#/components/schemas/")


def test_operations_have_short_names_that_stay(operations: list[Operation]) -> None:
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(names) == len(set(names))
    assert set(names) >= {
        "compute_closed_form", "compute_random_matrix",
        "submit_job", "list_jobs", "get_job", "follow_job", "cancel_job", "delete_job", "estimate_job",
        "get_job_result", "get_job_result_json", "get_job_result_npz", "get_job_result_png", "get_job_result_svg",
        "get_job_result_pdf",
        "upload_artifact", "list_artifacts", "get_artifact", "delete_artifact",
        "list_models", "get_model", "get_liveness", "get_readiness",
    }  # fmt: skip


def test_accept_is_declared_where_answers_differ_by_it(operations: list[Operation]) -> None:
    by_accept = {"/v1/closed-form", "/v1/random-matrix", "/v1/jobs/{job_id}/result", "/v1/series/{series_name}"}
    for _, path, operation in operations:
        headers = {each["name"] for each in operation.get("parameters", []) if each["in"] == "header"}
        contents = [each.get("content", {}) for status, each in operation["responses"].items() if status[0] == "2"]
        assert ("accept" in headers) == (path in by_accept), path
        if path in by_accept:
            assert list(contents[0]) == list(MEDIA_TYPES.values())
        elif path == "/v1/closed-form/batch":  # answers in the media type of the request
            assert set(contents[0]) == set(operation["requestBody"]["content"])
        else:
            assert all(len(content) <= 1 for content in contents), path
        for content in contents:
            for media_type, described in content.items():
                if media_type == "application/json":
                    assert "$ref" in described["schema"], path
                elif media_type != "text/event-stream":
                    assert described["schema"] == {"type": "string", "format": "binary"}, path


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_a_result_has_an_address_for_each_format(document: dict[str, Any], name: str) -> None:
    for path in ("/v1/jobs/{job_id}", "/v1/series/{series_name}"):
        operation = document["paths"][f"{path}/result.{name}"]["get"]
        assert list(operation["responses"]["200"]["content"]) == [MEDIA_TYPES[name]]
        assert "name" not in {each["name"] for each in operation["parameters"]}


def test_no_parameter_is_null(operations: list[Operation]) -> None:
    for _, path, operation in operations:
        for parameter in operation.get("parameters", []):
            assert {"type": "null"} not in list(parts(parameter["schema"])), path


@pytest.mark.parametrize("message", [ClosedFormRequest, SpectrumRequest, LanczosMethod, Mlp, Pretraining])
def test_fields_with_a_default_can_be_left_out_and_say_so(schemas: dict[str, Any], message: type[BaseModel]) -> None:
    """A default beside the field's own type is read by some generators as a field that is there in any case."""
    schema = schemas[message.__name__]
    for name, field in message.model_fields.items():
        described = schema["properties"][name]
        assert "default" not in described
        assert (name in schema.get("required", [])) == field.is_required(), name
        default = None if field.is_required() else message.model_construct().model_dump(mode="json")[name]
        if default is not None and message is not ClosedFormRequest:
            assert schemas[named(described)]["default"] == default, name
    assert schemas["ClosedFormRequestEigenvectors"]["default"] == "none"


def test_what_callers_send_never_has_a_default_in_the_type_of_a_field(schemas: dict[str, Any]) -> None:
    requests = {"ClosedFormRequest", "RandomMatrixRequest", "JobRequest"}
    reached: set[str] = set()
    while requests - reached:
        name = (requests - reached).pop()
        reached.add(name)
        requests |= {named(part) for part in parts(schemas[name]) if "$ref" in part}
    fields = [field for name in reached for field in schemas[name].get("properties", {}).values()]
    assert len(fields) > 200
    assert [field for field in fields if "default" in field] == []


def test_a_null_for_what_has_no_data_is_the_same_as_nothing() -> None:
    """Generated models send all that they hold."""
    request = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
    assert ClosedFormRequest.model_validate(request | {"data": None}) == ClosedFormRequest.model_validate(request)


def test_unions_are_told_apart_by_a_field_that_is_always_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    unions = [part for part in parts(document) if "oneOf" in part and all("$ref" in each for each in part["oneOf"])]
    assert len(unions) >= 12
    undiscriminated = [union for union in unions if "discriminator" not in union]
    assert undiscriminated == [schemas["UploadedData"]]  # both are of kind artifact
    assert all(schema["type"] == "object" for schema in schemas.values() if schema in unions)
    for union in unions:
        discriminator = union.get("discriminator", {"propertyName": "kind", "mapping": {}})
        assert set(discriminator["mapping"].values()) <= {each["$ref"] for each in union["oneOf"]}
        for each in union["oneOf"]:
            members = schemas[named(each)].get("oneOf", [each])
            for member in members:
                assert discriminator["propertyName"] in schemas[named(member)]["required"], json.dumps(union)
