"""Each example in docs/how-to is applied to a copy of the sources, and does what it says on a server of that copy."""

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.client.http import SpectrumClient
from tests.docs.blocks import ROOT, blocks

HTTP = httpx.Client(timeout=100)


@pytest.fixture(scope="module", autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    HTTP.close()


DISTRIBUTIONS = ("api_schemas", "client", "core", "launcher", "results", "service", "worker")


@dataclass(frozen=True)
class Example:
    """The diff and the request of a document.

    Attributes:
        name: Of the document, without folder and ending.
        diff: The change, in git's format.
        request: The body of a request that only a changed server takes.
        promised_files: How many files the document says that the change touches.
    """

    name: str
    diff: str
    request: dict[str, Any]
    promised_files: int

    @property
    def touched(self) -> set[str]:
        return set(re.findall(r"^\+\+\+ b/(\S+)$", self.diff, re.MULTILINE))

    @property
    def is_job(self) -> bool:
        return "kind" in self.request

    @property
    def added(self) -> tuple[str, str]:
        """Where in the request the new thing is named, and its name."""
        places = {
            "add-an-activation": "model.activation",
            "add-a-loss": "loss",
            "add-data": "data.kind",
            "add-a-method": "method.kind",
            "add-an-experiment": "kind",
        }
        place = places.get(self.name, "model.kind")
        value: Any = self.request
        for part in place.split("."):
            value = value[part]
        return place, value


def example(name: str) -> Example:
    found = {block.language: block.text for block in blocks() if block.place.startswith(f"docs/how-to/{name}.md:")}
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    promised = re.search(r"\*\*Files to touch: (\d+)\.\*\*", text)
    assert promised is not None
    return Example(name, found["diff"], json.loads(found["json"]), int(promised[1]))


MOST_FILES = {
    "add-an-activation": 1,
    "add-a-model": 2,
    "add-a-loss": 2,
    "add-data": 2,
    "add-a-closed-form": 2,
    "add-a-method": 3,
    "add-an-experiment": 2,
}
EXAMPLES = [example(name) for name in MOST_FILES]
by_name = pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)


def copy_of_sources(directory: Path) -> Path:
    for name in DISTRIBUTIONS:
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def apply(diff: str, directory: Path) -> None:
    # without GIT_DIR's repository around it, which would make git skip what lies outside of it
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(directory.parent)}
    command = ["git", "apply", "--whitespace=error-all", "-"]
    applied = subprocess.run(
        command, cwd=directory, input=diff, text=True, capture_output=True, check=False, env=environment
    )
    assert applied.returncode == 0, applied.stderr


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with all examples."""
    directory = copy_of_sources(tmp_path_factory.mktemp("extended"))
    for each in EXAMPLES:
        apply(each.diff, directory)
    return directory


@pytest.fixture(scope="module")
def extended_server(extended: Path, start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = os.pathsep.join([str(extended / name) for name in DISTRIBUTIONS])
    server = start_server(tmp_path_factory.mktemp("server") / "data", PYTHONPATH=path)
    return str(server.url)


def test_every_document_of_one_thing_to_add_is_here() -> None:
    mine = {path.stem for path in (ROOT / "docs" / "how-to").glob("add-*.md")}
    assert mine >= set(MOST_FILES)


@by_name
def test_it_touches_as_few_files_as_it_says(example: Example, tmp_path: Path) -> None:
    before = copy_of_sources(tmp_path / "before")
    after = copy_of_sources(tmp_path / "after")
    apply(example.diff, after)
    changed = {
        str(path.relative_to(after))
        for path in after.rglob("*.py")
        if not (before / path.relative_to(after)).exists()
        or (before / path.relative_to(after)).read_bytes() != path.read_bytes()
    }
    assert changed == example.touched
    assert len(changed) == example.promised_files == MOST_FILES[example.name]


@by_name
def test_the_server_without_it_says_what_it_has_instead(example: Example, server: Any) -> None:
    path = "/v1/jobs" if example.is_job else "/v1/closed-form"
    refused = HTTP.post(f"{server.url}{path}", json=example.request)
    place, _ = example.added
    assert refused.status_code == 422
    assert ".".join(refused.json()["errors"][0]["loc"]) == f"body.{place}"


@by_name
def test_the_document_of_the_interface_has_it(example: Example, extended_server: str) -> None:
    schemas = HTTP.get(f"{extended_server}/openapi.json").json()["components"]["schemas"]
    place, name = example.added
    assert f'"{name}"' in json.dumps(schemas)
    if place.endswith("kind"):
        described = [
            each for each in schemas.values() if each.get("properties", {}).get("kind", {}).get("const") == name
        ]
        shown = example.request if place == "kind" else example.request[place.removesuffix(".kind")]
        assert [each["examples"] for each in described if "examples" in each] == [[shown]]


@pytest.mark.parametrize("example", [each for each in EXAMPLES if each.is_job], ids=lambda each: each.name)
def test_an_estimate_and_a_job_go_through(example: Example, extended_server: str) -> None:
    estimated = HTTP.post(f"{extended_server}/v1/estimates", json=example.request)
    assert estimated.status_code == 200, estimated.text
    with SpectrumClient(extended_server) as client:
        job = client.wait(client.submit(example.request).id)
    assert job.state == "succeeded", job
    address = f"{extended_server}/v1/jobs/{job.id}/result"
    # the client of this process has no message for the result of a method that was added
    assert HTTP.get(address).json()["num_parameters"] == estimated.json()["num_parameters"]
    for kind, begin in (("npz", b"PK"), ("png", b"\x89PNG")):
        answer = HTTP.get(f"{address}.{kind}")
        assert answer.status_code == 200
        assert answer.content.startswith(begin)


def test_the_closed_form_is_the_spectrum_of_its_hessian(extended_server: str) -> None:
    """Against second differences of the loss."""
    request = example("add-a-closed-form").request
    answer = HTTP.post(f"{extended_server}/v1/closed-form", json=request)
    assert answer.status_code == 200, answer.text
    x, y, w = (np.array(values) for values in (*request["data"].values(), request["model"]["w"]))
    steps = 1e-4 * np.eye(len(w))

    def loss(at: Any) -> float:
        return float(((at.prod() * x - y) ** 2).mean() / 2)

    hessian = [
        [(loss(w + a + b) - loss(w + a - b) - loss(w - a + b) + loss(w - a - b)) / 4e-8 for a in steps] for b in steps
    ]
    values = [each["value"] for each in answer.json()["eigenvalues"]]
    assert values == pytest.approx(np.linalg.eigvalsh(hessian)[::-1], abs=1e-6)
    archive = HTTP.post(f"{extended_server}/v1/closed-form", json=request, headers={"Accept": "application/x-npz"})
    assert np.load(io.BytesIO(archive.content))["eigenvalues"].size == len(w)


def test_the_method_finds_the_eigenvalue_of_the_largest_magnitude(extended_server: str) -> None:
    request = example("add-a-method").request
    assert isinstance(request["method"], dict)
    with SpectrumClient(extended_server) as client:
        every: Any = client.run(request | {"method": {"kind": "exact"}, "precision": "float64"})
        job = client.wait(client.submit(request | {"precision": "float64"}).id)
    answer = HTTP.get(f"{extended_server}/v1/jobs/{job.id}/result").json()
    largest = max(every.eigenvalues, key=abs)
    assert answer["converged"]
    assert abs(answer["eigenvalue"]["value"] - largest) <= answer["eigenvalue"]["residual"]
    archive = np.load(io.BytesIO(HTTP.get(f"{extended_server}/v1/jobs/{job.id}/result.npz").content))
    assert archive["eigenvalue"].tolist() == [answer["eigenvalue"]["value"], answer["eigenvalue"]["residual"]]


def test_the_method_takes_spectra_of_blocks(extended_server: str) -> None:
    request = example("add-a-method").request | {"blocks": ["layers.0.*", "layers.1.*"]}
    with SpectrumClient(extended_server) as client:
        job = client.wait(client.submit(request).id)
    address = f"{extended_server}/v1/jobs/{job.id}/result"
    assert [each["method"] for each in HTTP.get(address).json()["spectra"]] == 2 * [request["method"]["kind"]]
    assert HTTP.get(f"{address}.png").content.startswith(b"\x89PNG")


def test_the_experiment_takes_the_spectra_that_it_lists(extended_server: str) -> None:
    request = example("add-an-experiment").request
    with SpectrumClient(extended_server) as client:
        job = client.wait(client.submit(request).id)
        alone: list[Any] = [
            client.run(
                {
                    "kind": "spectrum",
                    "model": {"kind": "mlp", "widths": [3, width, 2]},
                    "data": request["data"],
                    "loss": "mse",
                    "method": {"kind": "exact"},
                }
            )
            for width in request["widths"]
        ]
    address = f"{extended_server}/v1/jobs/{job.id}/result"
    answer = HTTP.get(address).json()
    largest = [each.eigenvalues[-1] for each in alone]
    assert [each["value"] for each in answer["sharpness"]] == pytest.approx(largest, rel=1e-4)
    assert len(answer["provenance"]) == len(largest)
    archive = np.load(io.BytesIO(HTTP.get(f"{address}.npz").content))
    assert archive["widths"].tolist() == request["widths"]
    assert archive["eigenvalues"].tolist() == [each["value"] for each in answer["sharpness"]]
