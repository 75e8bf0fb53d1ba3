"""Digests that decide what may be reused or combined: of requests, of software and of how a machine computes."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hessian_spectrum.api_schemas.experiments.kind import PointRequest
from hessian_spectrum.api_schemas.jobs import AnyJobRequest

ROOT = "hessian_spectrum"

PROTOCOL_PACKAGES = ("api_schemas", "checkpoints", "jobs", "planning", "storage")
"""The packages that define the protocol between service and workers."""

RESULT_PACKAGES = (
    "api_schemas",
    "checkpoints",
    "curvature",
    "jobs",
    "planning",
    "quadrature",
    "storage",
    "theory",
    "worker",
)
"""The packages that can change a number of a result."""

RESULT_LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "tokenizers", "torch", "transformers")
"""The libraries that can change a number of a result."""

_WITHOUT_EFFECT = {"tags", "shared", "webhook", "time_limit_seconds"}
"""Fields that say how a job is handled and do not change its result."""


def cache_key(request: AnyJobRequest | PointRequest) -> str:
    """Compute the cache key of a request: the SHA-256 of everything in it that affects its numbers.

    Workers compute the canonical form of a request, of which this is the digest, so two spellings with one key have one
    result. A named checkpoint enters with its own digest, an uploaded file with its id, which is a digest.

    Args:
        request: The request.

    Returns:
        The digest in hexadecimal digits.
    """
    text = request.canonical().model_dump_json(exclude=_WITHOUT_EFFECT, exclude_none=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def protocol_version() -> str:
    """SHA-256 of the sources that service and workers share, as they were at this process's first call.

    Returns:
        The digest. Clients see it as `source_version` of a worker and as `code_version` of `GET /v1/version`.
    """
    digest = hashlib.sha256()
    for line in digests_of_files(package_directories(PROTOCOL_PACKAGES)):
        digest.update(line.encode())
    return digest.hexdigest()


@cache
def result_version() -> str:
    """SHA-256 of everything in the software that a result depends on, as it was at this process's first call.

    A cached result is reused only where this version is the same.

    Returns:
        The digest. Clients see it as `code_version` of a worker.
    """
    return digest_of_sources(package_directories(RESULT_PACKAGES))


def digest_of_sources(directories: Iterable[Path]) -> str:
    """SHA-256 of the Python version, the versions of `RESULT_LIBRARIES` and the files of these directories."""
    digest = hashlib.sha256(f"python {platform.python_version()}\n".encode())
    for library in RESULT_LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for line in digests_of_files(directories):
        digest.update(line.encode())
    return digest.hexdigest()


def numerics_fingerprint(
    *, device: str, processor: str, num_threads: int, memory_bytes: int, product_method: str | None = None
) -> str:
    """Describe what the numbers of a worker depend on beside the request.

    A checkpoint is resumed only under the fingerprint that it was written with.

    Args:
        device: Name of the torch device.
        processor: Model of the CPU, by which libraries choose their instructions.
        num_threads: CPU threads of one job.
        memory_bytes: Memory of one job, on which the size of micro-batches depends.
        product_method: How products are computed where they cannot be recorded.

    Returns:
        Text that is equal for two workers whose results agree to the last bit.
    """
    hardware = f"{device}, {processor}, {num_threads} threads, {memory_bytes} bytes"
    common = f"code {result_version()}, torch {version('torch')}, {hardware}"
    return common if product_method is None else f"{common}, {product_method}"


def shard_fingerprint(
    numerics: str, *, partition: Any, is_calibrated: bool, compiled: Mapping[str, bool], deviations: Any
) -> str:
    """SHA-256 of everything that the numbers of a job's shards depend on beside the request.

    Args:
        numerics: Fingerprint of the worker, as `numerics_fingerprint` returns it.
        partition: What decides which numbers are computed together, as JSON can hold it.
        is_calibrated: Whether it is decided which products are compiled.
        compiled: For each product, whether it is compiled.
        deviations: Measured rounding errors of products in reduced precision, as JSON can hold them; or None.

    Returns:
        The digest in hexadecimal digits.
    """
    chosen = sorted(name for name, is_compiled in compiled.items() if is_compiled)
    text = json.dumps([numerics, partition, is_calibrated, chosen, deviations], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def package_directories(packages: Iterable[str]) -> list[Path]:
    """Directories of these packages, which several distributions install under one root."""
    return [Path(str(resources.files(f"{ROOT}.{package}"))) for package in packages]


def digests_of_files(directories: Iterable[Path]) -> Iterator[str]:
    """A line for each file of these packages: its name relative to the root, and its SHA-256."""
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                yield f"{path.relative_to(directory.parent).as_posix()} {content}\n"
