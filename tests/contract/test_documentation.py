"""The OpenAPI document: complete, offline, and its examples work."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.fingerprints import protocol_version


@pytest.fixture
def document(server: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return answer


def test_every_endpoint_is_described_with_its_problems(document: dict[str, Any]) -> None:
    operations = {(m, path): op for path, item in document["paths"].items() for m, op in item.items()}
    assert {path for _, path in operations} >= {
        "/v1/closed-form",
        "/v1/random-matrix",
        "/v1/estimates",
        "/v1/artifacts",
        "/v1/artifacts/{artifact_id}",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/result",
        "/v1/jobs/{job_id}/cancel",
        "/v1/models",
        "/v1/models/{model_name}",
        "/v1/figures",
        "/v1/series/{series_name}",
        "/v1/health/live",
        "/v1/version",
        "/v1/health/ready",
    }
    for (_, path), operation in operations.items():
        assert operation["summary"], path
        assert operation["description"], path
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert "#/components/schemas/Problem" in references
    for reference in references:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_a_method_that_an_address_has_not_is_told_those_that_it_has(document: dict[str, Any], server: Any) -> None:
    for path, item in document["paths"].items():
        address = re.sub(r"\{name\}", "png", re.sub(r"\{\w+_id\}|\{model_name\}", "0" * 32, path))
        answer = httpx.patch(f"{server.url}{address}")
        assert answer.status_code == 405, path
        assert set(answer.headers["allow"].split(", ")) == {method.upper() for method in item}, path


def test_the_example_of_every_endpoint_works(document: dict[str, Any], server: Any, client: SpectrumClient) -> None:
    job_id = artifact_id = None
    with httpx.Client(base_url=server.url, timeout=70) as http:
        for path, item in document["paths"].items():
            if "post" not in item or "requestBody" not in item["post"]:
                continue
            contents = item["post"]["requestBody"]["content"]
            examples = [(sent_as, *each) for sent_as, c in contents.items() for each in c.get("examples", {}).items()]
            assert examples, path
            for media_type, name, example in examples:
                if media_type != "application/json":
                    body = example["value"].encode("ascii")
                    response = http.post(path, content=body, headers={"Content-Type": media_type})
                    assert response.status_code == 201, (path, name, response.text)
                    artifact_id = response.json()["id"]
                    continue
                response = http.post(path, json=example["value"], headers={"Prefer": "wait=60"})
                assert response.status_code == 200, (path, name, response.text)
                job_id = response.json().get("id", job_id)
                assert response.json().get("state", "succeeded") == "succeeded"
        assert job_id is not None
        assert artifact_id is not None
        for path, item in document["paths"].items():
            if "get" in item:
                url = path.replace("{job_id}", job_id).replace("{name}", "png").replace("{artifact_id}", artifact_id)
                url = url.replace("{model_name}", "tiny-gpt2").replace("{series_name}", "run-7")
                with http.stream("GET", url) as answer:  # one of them does not end
                    assert answer.is_success, path


def test_the_page_needs_no_other_server(server: Any) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert page.is_success
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 2
    for source in sources:
        assert source.startswith("/"), source
        assert httpx.get(f"{server.url}{source}").is_success
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    policy = page.headers["content-security-policy"]
    assert len(scripts) == 1
    assert f"'sha256-{base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_server_commands_and_document_tell_one_version(server: Any, document: dict[str, Any]) -> None:
    told = httpx.get(f"{server.url}/v1/version").json()
    commands = [[Path(sys.executable).with_name(name), "--version"] for name in ("spectrum", "spectrum-server")]
    printed = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands}
    assert printed == {f"{__version__}\n"}
    assert told == {"version": __version__, "code_version": protocol_version()}
    assert document["info"]["version"] == __version__


def test_health(server: Any, client: SpectrumClient) -> None:
    assert httpx.get(f"{server.url}/v1/health/live").json() == {"status": "live"}
    workers = client.ready().workers
    assert len(workers) == 1
    assert workers[0].memory_bytes > 2**30
