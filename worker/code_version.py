"""Which code computes: no two versions have the same digest."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("api_schemas", "checkpoints", "curvature", "jobs", "theory", "worker")
"""All of ours that a job runs."""

LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "tokenizers", "torch", "transformers")
"""Those of others that make numbers."""


@cache
def code_version() -> str:
    """SHA-256 over our sources and the versions of libraries, as they were when this process, or its parent, began."""
    return digest_of_sources(Path(__file__).parents[1])


def digest_of_sources(root: Path) -> str:
    """The same of the packages in another directory."""
    digest = hashlib.sha256(f"python {platform.python_version()}\n".encode())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
