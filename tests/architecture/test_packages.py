"""Every package of the project reaches the wheel and the images."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"}


def test_packages_are_built_and_sent_to_the_builder() -> None:
    assert {name.removesuffix("*") for name in PROJECT["setuptools"]["packages"]["find"]["include"]} == PACKAGES
    assert {f"!{name}" for name in PACKAGES} <= set((ROOT / ".dockerignore").read_text().splitlines())
    assert set(PROJECT["importlinter"]["root_packages"]) == PACKAGES | {"benchmarks"}
