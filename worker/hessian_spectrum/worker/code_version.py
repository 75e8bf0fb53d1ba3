"""Which code computes: no two versions have the same digest."""

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hessian_spectrum.jobs.source_version import digests_of_files, directories_of

PACKAGES = ("api_schemas", "checkpoints", "curvature", "jobs", "planning", "quadrature", "theory", "worker")
"""All of ours that a job runs."""

LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "tokenizers", "torch", "transformers")
"""Those of others that make numbers."""


@cache
def code_version() -> str:
    """SHA-256 over our sources and the versions of libraries, as they were when this process, or its parent, began."""
    return digest_of_sources(directories_of(PACKAGES))


def digest_of_sources(directories: Iterable[Path]) -> str:
    """The same of the packages in other directories."""
    digest = hashlib.sha256(f"python {platform.python_version()}\n".encode())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for line in digests_of_files(directories):
        digest.update(line.encode())
    return digest.hexdigest()
