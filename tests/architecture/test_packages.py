"""Every distribution and every package of the project is installed, checked, and sent to the images."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def project(directory: Path) -> dict[str, Any]:
    return tomllib.loads((directory / "pyproject.toml").read_text())


TOOLS = project(ROOT)["tool"]
DISTRIBUTIONS = {path.name: project(path) for path in ROOT.iterdir() if (path / "hessian_spectrum").is_dir()}
PACKAGES = {f"hessian_spectrum.{path.parent.name}" for path in ROOT.glob("*/hessian_spectrum/*/__init__.py")}


def test_the_workspace_has_every_distribution() -> None:
    assert set(TOOLS["uv"]["workspace"]["members"]) == set(DISTRIBUTIONS)
    assert set(TOOLS["uv"]["sources"]) >= {name for d in DISTRIBUTIONS.values() for name in ours(d)}
    installed = re.findall(r"-e '?(\w+)", (ROOT / "scripts" / "setup").read_text())
    assert set(installed) == set(DISTRIBUTIONS)
    assert {f"!{name}" for name in DISTRIBUTIONS} <= set((ROOT / ".dockerignore").read_text().splitlines())


def ours(distribution: dict[str, Any]) -> list[str]:
    names = [re.sub(r"\[.*", "", name) for name in distribution["project"]["dependencies"]]
    return [name for name in names if name.startswith("hessian-spectrum-")]


def test_every_package_is_checked() -> None:
    assert set(TOOLS["mypy"]["packages"]) == PACKAGES | {"benchmarks", "docs_site"}
    contracts = TOOLS["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["name"] == "Arrows point down"]
    assert {name for layer in layers for name in layer.split(" | ")} == PACKAGES | {"benchmarks", "docs_site"}


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_a_distribution_is_typed_licensed_and_of_the_one_version(name: str) -> None:
    packages = [path for path in (ROOT / name / "hessian_spectrum").iterdir() if path.is_dir()]
    assert [path for path in packages if not (path / "py.typed").exists() and path.name != "__pycache__"] == []
    assert not (ROOT / name / "hessian_spectrum" / "__init__.py").exists()  # it would hide the other distributions
    assert DISTRIBUTIONS[name]["project"]["license"] == "MIT"
    assert DISTRIBUTIONS[name]["project"]["license-files"] == ["LICENSE"]  # which may not lie outside of the folder
    assert (ROOT / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert DISTRIBUTIONS[name]["project"]["dynamic"] == ["version"]
    version = ROOT / name / DISTRIBUTIONS[name]["tool"]["hatch"]["version"]["path"]
    assert version.resolve() == ROOT / "api_schemas" / "hessian_spectrum" / "api_schemas" / "version.py"
