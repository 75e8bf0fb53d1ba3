"""The stores of files of a deployment, as its settings name them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import redis

from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore
from hessian_spectrum.storage.blob_store import BlobStore
from hessian_spectrum.storage.job_files import CheckpointStore, RequestFiles
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.storage.results import ResultStore

_LOCK_SECONDS = 300.0
"""Time after which a lock is released because its holder must have died."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores of a deployment, which every process sees alike.

    Attributes:
        blobs: The store that all of them are parts of.
        results: Results of jobs.
        artifacts: Uploaded files.
        artifact_owners: Owners of the uploaded files.
        requests: Large requests of jobs that have not ended.
        checkpoints: Checkpoints of jobs that have not ended.
        points: Results of single points of experiments.
    """

    blobs: BlobStore
    results: ResultStore
    artifacts: ArtifactStore
    artifact_owners: ArtifactOwners
    requests: RequestFiles
    checkpoints: CheckpointStore
    points: PointStore

    @classmethod
    def of(cls, blobs: BlobStore) -> "Stores":
        """The stores that are parts of a blob store."""
        return cls(
            blobs=blobs,
            results=ResultStore(blobs),
            artifacts=ArtifactStore(blobs.within("artifacts")),
            artifact_owners=ArtifactOwners(blobs.within("artifact-owners")),
            requests=RequestFiles(blobs.within("requests")),
            checkpoints=CheckpointStore(blobs.within("job-checkpoints")),
            points=PointStore(blobs.within("points")),
        )


def open_stores(directory: Path, url: str | None = None, client: redis.Redis | None = None) -> Stores:
    """Open the stores of a deployment; no file is read yet.

    Args:
        directory: Directory of everything, or, with an object store, of what this machine has under way; it is made if
            it is missing.
        url: URL of an object store, s3://BUCKET/PREFIX; None: there is none.
        client: Client of the deployment's Redis, needed to change the owners of artifacts in an object store.

    Returns:
        The stores.

    Raises:
        StorageLibraryMissingError: The library for object stores is not installed.
    """
    local = LocalDirectory(directory)
    local.prepare()
    return Stores.of(local if url is None else _object_store(url, directory, client))


class StorageLibraryMissingError(Exception):
    """An object store is configured, and s3fs is not installed."""

    def __init__(self) -> None:
        super().__init__("an object store needs s3fs: in the repository, run pip install ./api_schemas './core[s3]'")


def _object_store(url: str, directory: Path, client: redis.Redis | None) -> BlobStore:
    try:
        from hessian_spectrum.storage.object_store import ObjectStore  # noqa: PLC0415 - s3fs is an extra
    except ImportError:
        raise StorageLibraryMissingError from None
    return ObjectStore(url, directory, None if client is None else _lock_of(client))


def _lock_of(client: redis.Redis) -> Callable[[str], AbstractContextManager[None]]:
    def lock(name: str) -> AbstractContextManager[None]:
        redis_lock: AbstractContextManager[None] = client.lock(f"spectrum:storage-lock:{name}", timeout=_LOCK_SECONDS)
        return redis_lock

    return lock
