"""Entries that the modules of a package list of themselves, so that a new entry needs nothing but a new file."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any


def listed(package: ModuleType, attribute: str) -> list[Any]:
    """Collect the entries of the tuples with one name in all modules of a package.

    Args:
        package: The package whose modules are looked through, those of its subpackages included.
        attribute: The name of the tuple, which not every module has.

    Returns:
        The entries, sorted by `position` and then by `name`.
    """
    entries = [entry for module in _modules(package) for entry in getattr(module, attribute, ())]
    return sorted(entries, key=lambda entry: (entry.position, entry.name))


def merged(package: ModuleType, attribute: str) -> dict[str, Any]:
    """Join the dictionaries with one name in all modules of a package.

    Args:
        package: The package whose modules are looked through, those of its subpackages included.
        attribute: The name of the dictionary, which not every module has.

    Returns:
        The entries of all of them.

    Raises:
        ValueError: If two modules have an entry of one name.
    """
    entries: dict[str, Any] = {}
    for module in _modules(package):
        own = getattr(module, attribute, {})
        if twice := entries.keys() & own.keys():
            raise ValueError(f"{module.__name__} lists {', '.join(sorted(twice))} a second time")
        entries |= own
    return entries


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        yield import_module(module.name)
