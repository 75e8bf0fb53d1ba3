"""Entries are found by their place, in a stated order, and never twice."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hessian_spectrum.planning.registry import listed, merged

ENTRY = """
from collections import namedtuple
Entry = namedtuple("Entry", "name position")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Makes a package of modules with these texts, and one subpackage."""

    def make(name: str, **modules: str) -> ModuleType:
        directory = tmp_path / name
        (directory / "below").mkdir(parents=True)
        for place in (directory, directory / "below"):
            (place / "__init__.py").write_text("")
        for module, text in modules.items():
            (directory / f"{module.replace('__', '/')}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        __import__(name)
        return sys.modules[name]

    return make


def test_entries_are_in_the_order_of_positions_then_names(package: Callable[..., ModuleType]) -> None:
    found = package(
        "registry_of_three",
        one=ENTRY + "KINDS = (Entry('z', 100), Entry('b', 1))",
        below__two=ENTRY + "KINDS = (Entry('a', 100),)",
        none="",
    )
    assert [entry.name for entry in listed(found, "KINDS")] == ["b", "a", "z"]


def test_dictionaries_of_all_modules_are_one(package: Callable[..., ModuleType]) -> None:
    found = package("registry_of_two", one="MODELS = {'a': 1}", below__two="MODELS = {'b': 2}")
    assert merged(found, "MODELS") == {"a": 1, "b": 2}


def test_a_name_that_is_listed_twice_is_noticed(package: Callable[..., ModuleType]) -> None:
    found = package("registry_of_one_twice", one="MODELS = {'a': 1}", two="MODELS = {'a': 2}")
    with pytest.raises(ValueError, match="lists a a second time"):
        merged(found, "MODELS")
