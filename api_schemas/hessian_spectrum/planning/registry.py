"""What the modules of a package list of themselves, so that a new file is all that a new entry needs."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any


def listed(package: ModuleType, attribute: str) -> list[Any]:
    """Entries of the tuples of this name in all modules of the package, in the order of their positions, then names.

    Args:
        package: The package whose modules are looked through, those of its subpackages included.
        attribute: The name of the tuple, which not every module has.
    """
    entries = [entry for module in _modules(package) for entry in getattr(module, attribute, ())]
    return sorted(entries, key=lambda entry: (entry.position, entry.name))


def merged(package: ModuleType, attribute: str) -> dict[str, Any]:
    """The dictionaries of this name in all modules of the package, as one.

    Args:
        package: The package whose modules are looked through, those of its subpackages included.
        attribute: The name of the dictionary, which not every module has.

    Raises:
        ValueError: If two modules have an entry of one name.
    """
    entries: dict[str, Any] = {}
    for module in _modules(package):
        found = getattr(module, attribute, {})
        if twice := entries.keys() & found.keys():
            raise ValueError(f"{module.__name__} lists {', '.join(sorted(twice))} a second time")
        entries |= found
    return entries


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in walk_packages(package.__path__, f"{package.__name__}."):
        yield import_module(found.name)
