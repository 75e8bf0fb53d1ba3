"""Removal of results and records that are older than their retention time, or that the disk has no room for."""

import logging
import time
from dataclasses import dataclass

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.retention import Leftovers, Retention
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.storage.results import ResultStore

_BATCH_SIZE = 100
"""Largest number of jobs that one run expires or deletes; the next run continues."""

_ABANDONED_SECONDS = 6 * 3600.0
"""Age in seconds at which a result without a job is removed: far longer than a worker takes from writing a result to
recording it, and long enough to notice that a backup is too old."""

_MAX_SHARE_OF_SCANNING = 0.1
"""Largest share of the running time that scans of all files may take."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Limits on the time for which results and records are kept, and on their size."""

    result_seconds: float
    """Seconds that a result is kept after its job ended."""
    record_seconds: float
    """Seconds that the record of a job without a result is kept."""
    results_bytes: int | None
    """Size of results and kept points, beyond which the oldest are removed; None: half of the disk that holds them."""


class RetentionTask:
    """Expires results, deletes old records and removes the files that belong to neither.

    Several services may run the task at once: a lock in Redis lets one at a time proceed, and each step is decided in
    Redis. Nothing expires and nothing is removed unless the results directory and Redis belong together, which is
    checked again before each removal.

    Args:
        store: Records of jobs.
        retention: Ages of jobs and results.
        results: Results.
        artifacts: Uploaded files.
        owners: Owners of the uploaded files.
        points: Results of single points of experiments.
        storage: Identity of the results directory and of Redis.
        policy: Limits on the time and size of what is kept.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        retention: Retention,
        results: ResultStore,
        artifacts: ArtifactStore,
        owners: ArtifactOwners,
        points: PointStore,
        storage: StorageIdentity,
        policy: RetentionPolicy,
    ) -> None:
        self._store, self._retention, self._results = store, retention, results
        self._artifacts, self._owners, self._points = artifacts, owners, points
        self._storage, self._leftovers = storage, Leftovers(storage)
        self._policy = policy
        self._next_scan = 0.0

    def run_once(self) -> None:
        """Remove what is due now.

        Raises:
            StorageMismatchError: The results directory and Redis do not belong together; the next run tries again.
            RedisError: Redis does not answer; the next run tries again.
            OSError: The disk cannot be read or written; the next run tries again.
        """
        self._storage.require()
        with self._retention.lock() as is_ours:
            if is_ours:
                self._expire_results()
                self._delete_records()
                self._remove_unwanted_results()
                self._scan_files()

    def _expire_results(self) -> None:
        problem = _expired(f"Results are kept for {_text(self._policy.result_seconds)}.")
        for job_id in self._retention.jobs_with_result(self._policy.result_seconds, _BATCH_SIZE):
            self._retention.expire(job_id, problem)

    def _delete_records(self) -> None:
        for job_id in self._retention.jobs_without_result(self._policy.record_seconds, _BATCH_SIZE):
            try:
                self._store.delete(job_id)
            except UnknownJobError:  # its owner has deleted it just now
                continue

    def _remove_unwanted_results(self) -> None:
        # A job that computed the very same bytes just now would lose them; but a result states how long it took.
        for digest in self._leftovers.unwanted_results():
            self._storage.require()
            self._results.delete(digest)
            self._store.discard_unused_result(digest)

    def _scan_files(self) -> None:
        """Remove files by their own sizes and ages, whatever was killed in between; at most a tenth of the time."""
        started = time.monotonic()
        if started < self._next_scan:
            return
        sizes, old = self._results.sizes(), self._results.older_than(_ABANDONED_SECONDS)
        self._results.blobs.remove_abandoned_drafts(_ABANDONED_SECONDS)
        self._remove_unused_artifacts()
        self._remove_unused_points()
        now = time.monotonic()
        self._next_scan = now + (now - started) / _MAX_SHARE_OF_SCANNING
        for digest in self._leftovers.abandoned_results(old, _ABANDONED_SECONDS):
            self._storage.require()
            _logger.warning("result %s belongs to no job: removed", digest)
            self._results.delete(digest)
            sizes.pop(digest, None)
        self._make_room(sizes)
        self._remove_unwanted_results()

    def _remove_unused_artifacts(self) -> None:
        self._storage.require()
        with self._owners.settled():
            for artifact_id in self._artifacts.remove_unused(self._policy.result_seconds):
                for owner in self._owners.owners(artifact_id):
                    self._owners.remove(owner, artifact_id)

    def _remove_unused_points(self) -> None:
        self._storage.require()
        for key in self._points.remove_unused(self._policy.result_seconds):
            _logger.debug("point %s was not used any more: removed", key)

    def _make_room(self, sizes: dict[str, int]) -> None:
        """Remove kept points, which can be computed again, and then expire the oldest results until the others fit."""
        most = self._policy.results_bytes
        if most is None and (capacity := self._results.blobs.capacity()) is not None:
            most = capacity // 2
        if most is None:
            return
        excess = sum(sizes.values()) - most
        if removed := self._points.remove_oldest(self._points.num_bytes() + excess):
            _logger.warning("%d kept points are removed to free disk space", removed)
        problem = _expired("It was removed to make room for newer ones.")
        last = None
        while excess > 0 and (digest := self._retention.oldest_result()) not in (None, last):
            for job_id in self._retention.users(digest):  # a job that starts to use it now keeps the result
                self._retention.expire(job_id, problem)
            _logger.warning("result %s expires to free disk space", digest)
            excess -= sizes.pop(digest, 0)
            last = digest


def _expired(detail: str) -> Problem:
    return Problem(type="/problems/job-expired", title="The result has expired", status=410, detail=detail)


def _text(seconds: float) -> str:
    return f"{seconds / 86400:.3g} days" if seconds >= 86400 else f"{seconds:.3g} s"
