"""What the images install is what the distributions and constraints.txt say, every file by its digest: `make pins`."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def project(name: str) -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / name / "pyproject.toml").read_text()))


def dependencies(*names: str) -> list[str]:
    """What these distributions ask for of others; images have their extras, but those for people's own machines."""
    projects = [project(name)["project"] for name in names]
    asked_for = [text for each in projects for text in each["dependencies"]]
    asked_for += [
        text
        for each in projects
        for extra, texts in each.get("optional-dependencies", {}).items()
        for text in texts
        if extra not in {"jax", "mlflow", "notebook", "tensorboard", "wandb"}
    ]
    return [text for text in asked_for if not text.startswith("hessian-spectrum-")]


SERVICE = ("api_schemas", "core", "results", "service")
WORKER = (*SERVICE, "client", "launcher", "worker")
SHA256 = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> dict[str, tuple[Version, int]]:
    """Version and number of digests of each package."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text(name), flags=re.M)).splitlines()
    found = {}
    for line in lines:
        requirement = Requirement(SHA256.sub("", line).strip())
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        found[canonicalize_name(requirement.name)] = Version(pin.version), len(SHA256.findall(line))
    return found


def asked_for(requirements: list[str]) -> dict[str, Requirement]:
    parsed = map(Requirement, requirements)
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


CONSTRAINTS = asked_for(
    [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
)


@pytest.mark.parametrize("name", ["service", "worker", "torch", "build"])
def test_every_file_that_is_installed_has_a_digest_and_the_version_of_the_constraints(name: str) -> None:
    for package, (version, num_digests) in pins(name).items():
        assert num_digests >= 1, package
        if package in CONSTRAINTS:
            assert version in CONSTRAINTS[package].specifier, package
    assert "://" not in text(name)
    assert "index-url" not in text(name)


@pytest.mark.parametrize(
    ("names", "requirements"),
    [
        (["service"], dependencies(*SERVICE)),
        (["worker", "torch"], dependencies(*WORKER)),
        (["build"], [*project("core")["build-system"]["requires"], "uv"]),
    ],
)
def test_what_the_project_asks_for_is_there(names: list[str], requirements: list[str]) -> None:
    pinned = {package: version for name in names for package, (version, _) in pins(name).items()}
    for package, requirement in asked_for(requirements).items():
        assert pinned[package] in requirement.specifier, package


def test_torch_and_its_cuda_libraries_are_apart() -> None:
    assert "torch" not in pins("worker")
    assert not [package for package in pins("worker") if package.startswith(("nvidia-", "cuda-", "triton"))]
    assert "torch" not in pins("service")
    rest = {package: pin for package, pin in pins("torch").items() if not package.startswith(("nvidia-", "cuda-"))}
    del rest["torch"], rest["triton"]
    assert rest.items() <= pins("worker").items()
