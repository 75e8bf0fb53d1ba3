"""What people install: wheels, each in an environment of its own, in a folder full of modules with common names."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
DISTRIBUTIONS = ("api_schemas", "client", "core", "launcher", "results", "service", "worker")
HEAVY = {"celery", "fastapi", "redis", "scikit-learn", "scipy", "torch", "transformers", "uvicorn"}
SOMEBODY_ELSES = ["client.py", "worker.py", "redis.py", "numpy.py", "queue.py", "logs/__init__.py", "jobs/__init__.py"]
SOMEBODY_ELSES += ["service/__init__.py", "theory/__init__.py", "api_schemas/__init__.py"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, **options: Any) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    for name in DISTRIBUTIONS:
        run(UV, "build", "-q", "--system-certs", "--wheel", "--out-dir", directory, ROOT / name)
    return directory


@pytest.fixture
def install(wheels: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Installs a distribution and what it needs into an environment of its own, whose commands it returns."""

    def install(name: str) -> Path:
        environment = tmp_path / "environment"
        run(UV, "venv", "-q", "-p", sys.executable, environment)
        links = re.findall(
            r"\S+", os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", "")).replace(",", " ")
        )
        options = [option for link in [wheels, *links] for option in ("--find-links", link)]
        constraints = ["-c", ROOT / "constraints.txt"]
        run(UV, "pip", "install", "-q", "--system-certs", "-p", environment, *options, *constraints, name, cwd=tmp_path)
        return environment / "bin"

    return install


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of somebody else, with modules that may not be imported in place of ours, or of libraries."""
    directory = tmp_path / "research"
    for name in SOMEBODY_ELSES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("raise SystemExit('yours was imported')\n")
    return directory


def installed(commands: Path) -> set[str]:
    listing = json.loads(run(UV, "pip", "list", "--format", "json", "-p", commands.parent))
    return {package["name"] for package in listing}


JOB = """
from hessian_spectrum.client import SpectrumClient
import sys
with SpectrumClient(sys.argv[1]) as client:
    spectrum = client.closed_form({"model": {"kind": "quadratic", "matrix": [[2.0]]}})
    job = {"kind": "spectrum", "model": {"kind": "mlp", "widths": [1, 1]}, "loss": "mse", "method": {"kind": "exact"},
           "data": {"kind": "inline", "x": [[1.0]], "y": [[0.0]]}}
    print(spectrum.sharpness, client.run(job).num_parameters)
"""


def test_every_wheel_is_typed_and_states_its_licence(wheels: Path) -> None:
    built = sorted(wheels.glob("*.whl"))
    assert len(built) == len(DISTRIBUTIONS)
    for path in built:
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
            fields = Parser().parsestr(wheel.read(metadata).decode())
            assert fields["License-Expression"] == "MIT", path.name
            assert fields.get_all("License-File") == ["LICENSE"], path.name
            licence = metadata.replace("METADATA", "licenses/LICENSE")
            assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes(), path.name
        packages = {name.split("/")[1] for name in names if name.startswith("hessian_spectrum/")}
        assert {f"hessian_spectrum/{package}/py.typed" for package in packages} <= set(names), path.name


def test_the_client_alone(install: Callable[[str], Path], folder: Path, server: Any) -> None:
    commands = install("hessian-spectrum-client")
    names = installed(commands)
    assert {name for name in names if name.startswith("hessian-")} == {
        "hessian-spectrum-api-schemas",
        "hessian-spectrum-client",
    }
    assert names & HEAVY == set()
    assert run(commands / "python", "-P", "-c", JOB, server.url, cwd=folder) == "2.0 2\n"
    (folder / "question.json").write_text('{"model": {"kind": "quadratic", "matrix": [[2.0]]}}')
    answer = run(commands / "spectrum", "closed-form", "question.json", "--url", server.url, cwd=folder)
    assert json.loads(answer)["sharpness"] == 2.0


def test_the_service_has_no_torch(install: Callable[[str], Path], folder: Path) -> None:
    commands = install("hessian-spectrum-service")
    assert installed(commands) & {"torch", "transformers", "scipy", "scikit-learn"} == set()
    assert "--port" in run(commands / "python", "-P", "-m", "hessian_spectrum.service", "--help", cwd=folder)


def test_the_whole_server_in_a_folder_of_somebody_else(install: Callable[[str], Path], folder: Path) -> None:
    commands = install("hessian-spectrum-server")
    told = run(commands / "spectrum-server", "demo", cwd=folder)
    assert "demo-output" in told
    assert len(list((folder / "demo-output").glob("*.png"))) >= 3
