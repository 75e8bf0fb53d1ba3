"""Lets results and records go that have had their time, or that the disk has no room for."""

import logging
import time

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.artifact_owners import ArtifactOwners
from hessian_spectrum.jobs.artifacts import ArtifactStore
from hessian_spectrum.jobs.disk import share_of_disk
from hessian_spectrum.jobs.leftovers import Leftovers
from hessian_spectrum.jobs.results import ResultStore
from hessian_spectrum.jobs.retention import Retention
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.jobs.store import JobStore, UnknownJobError

_AT_ONCE = 100
"""Jobs in one step; the others have their turn in the next."""

_ABANDONED_SECONDS = 6 * 3600.0
"""Far longer than a worker takes from writing a result to saying so, and enough to see that a backup is too old."""

_SHARE_OF_LOOKING = 0.1
"""Of the time, that looking at every file may take."""

_logger = logging.getLogger(__name__)


class Housekeeper:
    """Any number of services may have one at the same time: they take turns, and each step is decided in Redis.

    Nothing expires and nothing is removed unless the results directory and Redis belong together, which is asked again
    before each removal.

    Args:
        result_seconds: That results are kept.
        record_seconds: That records without result are.
        max_bytes: Of results, by default half of the disk that holds them.
    """

    def __init__(
        self,
        store: JobStore,
        retention: Retention,
        results: ResultStore,
        artifacts: ArtifactStore,
        owners: ArtifactOwners,
        storage: StorageIdentity,
        result_seconds: float,
        record_seconds: float,
        max_bytes: int | None,
    ) -> None:
        self._store, self._retention, self._results = store, retention, results
        self._artifacts, self._owners = artifacts, owners
        self._storage, self._leftovers = storage, Leftovers(storage)
        self._result_seconds, self._record_seconds, self._max_bytes = result_seconds, record_seconds, max_bytes
        self._next_look = 0.0

    def sweep(self) -> None:
        """Look once.

        Raises:
            StorageMismatchError: The next sweep goes on.
            RedisError: The next sweep goes on.
            OSError: The next sweep goes on.
        """
        self._storage.require()
        with self._retention.turn() as mine:
            if mine:
                self._expire_old()
                self._forget_old()
                self._remove_unwanted()
                self._look_at_disk()

    def _expire_old(self) -> None:
        problem = expired(f"Results are kept for {_text(self._result_seconds)}.")
        for job_id in self._retention.jobs_with_result(self._result_seconds, _AT_ONCE):
            self._retention.expire(job_id, problem)

    def _forget_old(self) -> None:
        for job_id in self._retention.jobs_without_result(self._record_seconds, _AT_ONCE):
            try:
                self._store.delete(job_id)
            except UnknownJobError:  # its owner was faster
                continue

    def _remove_unwanted(self) -> None:
        # A job that had found the very same bytes just now would lose them; but a result says how long it took.
        for digest in self._leftovers.unwanted_results():
            self._storage.require()
            self._results.delete(digest)
            self._store.removed(digest)

    def _look_at_disk(self) -> None:
        """At its own pace: sizes are those of the files, whatever was killed in between."""
        started = time.monotonic()
        if started < self._next_look:
            return
        sizes, old = self._results.sizes(), self._results.older_than(_ABANDONED_SECONDS)
        self._results.remove_abandoned_drafts(_ABANDONED_SECONDS)
        self._remove_unused_artifacts()
        now = time.monotonic()
        self._next_look = now + (now - started) / _SHARE_OF_LOOKING
        for digest in self._leftovers.abandoned_results(old, _ABANDONED_SECONDS):
            self._storage.require()
            _logger.warning("result %s belongs to no job: removed", digest)
            self._results.delete(digest)
            sizes.pop(digest, None)
        self._make_room(sizes)
        self._remove_unwanted()

    def _remove_unused_artifacts(self) -> None:
        self._storage.require()
        with self._owners.settled():
            for artifact_id in self._artifacts.remove_unused(self._result_seconds):
                for owner in self._owners.owners(artifact_id):
                    self._owners.remove(owner, artifact_id)

    def _make_room(self, sizes: dict[str, int]) -> None:
        """Let the oldest results go until the others fit."""
        most = share_of_disk(self._results.directory, 2) if self._max_bytes is None else self._max_bytes
        excess = sum(sizes.values()) - most
        problem = expired("It was removed to make room for newer ones.")
        last = None
        while excess > 0 and (digest := self._retention.oldest_result()) not in (None, last):
            for job_id in self._retention.users(digest):  # one that joins them now keeps the result
                self._retention.expire(job_id, problem)
            _logger.warning("result %s makes room", digest)
            excess -= sizes.pop(digest, 0)
            last = digest


def expired(detail: str) -> Problem:
    """What is said of a result that was there."""
    return Problem(type="/problems/job-expired", title="The result has expired", status=410, detail=detail)


def _text(seconds: float) -> str:
    return f"{seconds / 86400:.3g} days" if seconds >= 86400 else f"{seconds:.3g} s"
