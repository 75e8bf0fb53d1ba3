"""Which sources a process runs, so that service and workers can be told apart that were not upgraded together."""

import hashlib
from functools import cache
from pathlib import Path

_PACKAGES = ("api_schemas", "checkpoints", "jobs")
"""Those that service and workers share."""


@cache
def source_version() -> str:
    """SHA-256 of the sources that service and workers share, as they were when this process asked first."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
