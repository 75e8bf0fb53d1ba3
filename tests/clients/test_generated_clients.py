"""Clients that generators make of the OpenAPI document ask a real server for a closed form and a job."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "clients"
"""Where `make test-clients` installs the generators; node's packages are beside them."""

PNG, ZIP = [0x89, 0x50, 0x4E, 0x47], [0x50, 0x4B, 0x03, 0x04]


def run(*command: str | Path, directory: Path, **environment: str) -> str:
    """What the command printed."""
    path = os.pathsep.join([str(BUILD / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path} | environment
    finished = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "⚠" not in finished.stderr + finished.stdout
    assert "Warning(s) encountered" not in finished.stderr + finished.stdout
    return finished.stdout


@pytest.fixture(scope="module")
def python() -> Path:
    """Of an environment that the generators share with the clients that they make."""
    path = BUILD / "bin" / "python"
    assert path.exists(), "the generators are installed by: make test-clients"
    return path


@pytest.fixture(scope="module")
def document(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clients") / "openapi.json"
    path.write_bytes(httpx.get(f"{server.url}/openapi.json").raise_for_status().content)
    return path


@pytest.fixture(scope="module")
def typescript(python: Path, document: Path) -> Path:
    """A directory with the programs in TypeScript and what they need to be compiled."""
    directory = BUILD / "typescript"
    shutil.rmtree(directory / "hey", ignore_errors=True)
    shutil.rmtree(directory / "compiled", ignore_errors=True)
    directory.mkdir(exist_ok=True)
    for name in ("package.json", "tsconfig.json", "openapi_fetch.ts", "hey_api.ts"):
        shutil.copy(HERE / name, directory)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--cache", str(BUILD / "npm-cache")]
    run("npm", "install", *options, directory=directory)
    run("npx", "openapi-typescript", document, "-o", "schema.d.ts", directory=directory)
    run("npx", "openapi-ts", "-i", document, "-o", "hey", directory=directory)
    run("npx", "tsc", directory=directory)
    return directory / "compiled"


def expect(printed: str, *, wrong: list[str], files: bool = True) -> None:
    found = json.loads(printed)
    assert found["sharpness"] == pytest.approx(10 + 52**0.5)
    assert found["refused"] == [wrong]
    assert found["state"] == "succeeded"
    assert found["points"] == 1024
    assert found["largest"] > 0
    if files:
        assert (found["npz"], found["png"], found["svg"]) == (ZIP, PNG, "<?xml")


@pytest.mark.parametrize("program", ["openapi_fetch", "hey_api"])
def test_typescript(typescript: Path, server: Any, program: str) -> None:
    printed = run("node", f"{program}.js", server.url, directory=typescript)
    expect(printed, wrong=["body", "method", "num_steps"])
    assert json.loads(printed)["picture"] == PNG


def test_openapi_python_client(python: Path, document: Path, server: Any, tmp_path: Path) -> None:
    options = ["--meta", "none", "--output-path", "spectrum_api", "--config", HERE / "openapi_python_client.yaml"]
    run(python.with_name("openapi-python-client"), "generate", "--path", document, *options, directory=tmp_path)
    printed = run(python, HERE / "attrs_client.py", server.url, directory=tmp_path, PYTHONPATH=str(tmp_path))
    expect(printed, wrong=["body", "method", "eigenvectors"])


def test_datamodel_code_generator(python: Path, document: Path, server: Any, tmp_path: Path) -> None:
    options = ["--output-model-type", "pydantic_v2.BaseModel", "--output", "spectrum_models.py"]
    run(python.with_name("datamodel-codegen"), "--input", document, *options, directory=tmp_path)
    printed = run(python, HERE / "pydantic_models.py", server.url, directory=tmp_path, PYTHONPATH=str(tmp_path))
    expect(printed, wrong=["body", "method", "eigenvectors"], files=False)
