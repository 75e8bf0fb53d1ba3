"""The commands of the containers start modules that exist; that the containers work is tested in tests/compose."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml"])
def test_modules_of_commands_exist(name: str) -> None:
    modules = set(re.findall(r'-m"?, "?([\w.]+)', (ROOT / name).read_text()))
    assert modules
    assert {module for module in modules if find_spec(module) is None} == set()
