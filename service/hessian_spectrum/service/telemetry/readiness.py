"""Readiness: what a deployment lacks to compute closed forms and jobs."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.connection import described, eviction_fault, require_writable
from hessian_spectrum.jobs.settings import StorageSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.worker_registry import registered_workers
from hessian_spectrum.storage.blob_store import BlobStore
from hessian_spectrum.storage.local_directory import LEAST_FREE_BYTES


def look(
    client: redis.Redis, storage: StorageIdentity, settings: StorageSettings
) -> tuple[list[WorkerStatus], list[str]]:
    """Check everything; returns the present workers and what is missing."""
    missing = [*missing_on_disk(settings.results_dir), *missing_models(settings.models_dir)]
    if settings.storage_url is not None:
        missing += missing_object_store(storage.blobs)
    try:
        require_writable(client)
        workers = registered_workers(client)
        faults = [missing_worker(workers), eviction_fault(client), mismatch(storage)]
    except RedisError as error:
        return [], [described(error), *missing]
    return workers, [*filter(None, faults), *missing]


def missing_worker(workers: Sequence[WorkerStatus]) -> str | None:
    """Explain why no worker takes jobs; None if one does."""
    if not workers:
        return "no worker is present"
    faults = [worker.fault for worker in workers]
    return None if None in faults else f"no worker takes jobs: {faults[0]}"


def mismatch(storage: StorageIdentity) -> str | None:
    """Find out whether the results directory and Redis belong together.

    Returns:
        Why they do not; None if they do, and for a missing directory, which another check reports.

    Raises:
        RedisError: Redis does not answer.
    """
    try:
        return storage.fault()
    except OSError:
        return None


def missing_on_disk(results: Path) -> list[str]:
    """Explain why results cannot be stored."""
    try:
        with tempfile.TemporaryFile(dir=results):
            pass
        free = shutil.disk_usage(results).free
    except OSError as error:
        return [f"the directory of results cannot be written: {error.strerror}"]
    return ["the disk of the results is nearly full"] if free < LEAST_FREE_BYTES else []


def missing_object_store(blobs: BlobStore) -> list[str]:
    """Explain why the object store cannot be used."""
    try:
        blobs.require_present()
    except OSError as error:
        return [str(error.strerror)]
    return []


def missing_models(models: Path | None) -> list[str]:
    """Explain why checkpoints cannot be read."""
    if models is None or (models.is_dir() and os.access(models, os.R_OK | os.X_OK)):
        return []
    return ["the models directory cannot be read"]
