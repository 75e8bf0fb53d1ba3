"""Which sources a process runs, so that service and workers can be told apart that were not upgraded together."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path

ROOT = "hessian_spectrum"
_SHARED = ("api_schemas", "checkpoints", "jobs")
"""The packages that service and workers have in common."""


@cache
def source_version() -> str:
    """SHA-256 of the sources that service and workers share, as they were when this process asked first."""
    digest = hashlib.sha256()
    for line in digests_of_files(directories_of(_SHARED)):
        digest.update(line.encode())
    return digest.hexdigest()


def directories_of(packages: Iterable[str]) -> list[Path]:
    """Where these packages of ours are installed; several distributions share their root."""
    return [Path(str(resources.files(f"{ROOT}.{package}"))) for package in packages]


def digests_of_files(directories: Iterable[Path]) -> Iterator[str]:
    """A line for each file of these packages: its name inside the root, and its SHA-256."""
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                yield f"{path.relative_to(directory.parent).as_posix()} {content}\n"
