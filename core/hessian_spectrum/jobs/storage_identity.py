"""The identity that the results directory and Redis share, so that neither is mistaken for another one."""

import secrets
from collections.abc import Callable
from typing import Any, cast

import redis
from redis.client import Pipeline

from hessian_spectrum.jobs.scripts import IDENTITY, IDENTITY_OFFER, JOB, RESULTS, run_script
from hessian_spectrum.storage.blob_store import BlobNotFoundError, BlobStore
from hessian_spectrum.storage.job_files import CheckpointStore
from hessian_spectrum.storage.results import ResultStore

_FILE = "identity"
_NUM_COMPARED = 100

MEND = (
    "Set SPECTRUM_REDIS_URL and SPECTRUM_RESULTS_DIR, or SPECTRUM_STORAGE_URL where there is an object store, to the "
    "pair that belongs together, or restore what was lost. "
    "To join these two for good, run `spectrum-server bind`."
)


class StorageMismatchError(Exception):
    """The results directory and Redis do not belong together, so nothing may be deleted."""


class StorageIdentity:
    """A random identity, stored in a file of the results directory and in a key of Redis.

    Files are deleted when Redis does not know them. That is right only for the Redis in which they were recorded: an
    empty one (another database, a lost volume, an incomplete restore) knows none of them. So a process checks the
    identity before it deletes anything.

    A directory and a Redis that are both new, or that an earlier version has used together, get an identity by
    `settle`. It is offered in Redis, written to the directory and then accepted in Redis, so that a process which is
    killed in between, or several that start at once, end up with one identity.

    Args:
        client: Client of the Redis that holds the records of jobs.
        results: The store that holds the identity beside its results.
        checkpoints: The checkpoints of jobs that have not ended.
    """

    def __init__(self, client: redis.Redis, results: ResultStore, checkpoints: CheckpointStore) -> None:
        self._client, self._results, self._checkpoints = client, results, checkpoints

    @property
    def blobs(self) -> BlobStore:
        """The store that holds the identity."""
        return self._results.blobs

    def fault(self) -> str | None:
        """Describe what is wrong and how to repair it.

        Returns:
            The description; None if directory and Redis belong together, or may be joined.

        Raises:
            RedisError: Redis does not answer.
            OSError: The directory cannot be read.
        """
        difference = self.difference()
        return difference and f"{difference} Nothing is deleted until this is mended. {MEND}"

    def difference(self) -> str | None:
        """Describe what is wrong, without how to repair it.

        Returns:
            The description; None if directory and Redis belong together, or may be joined.

        Raises:
            RedisError: Redis does not answer.
            OSError: The directory cannot be read.
        """
        # Twice, as another process may give both their identity between two reads.
        return self._difference() and self._difference()

    def require(self) -> None:
        """Check that directory and Redis share their identity at this moment.

        Raises:
            StorageMismatchError: They do not.
            RedisError: Redis does not answer.
            OSError: The directory cannot be read.
        """
        self.replies(lambda _: None)

    def replies(self, ask: Callable[[Pipeline], object]) -> list[Any]:
        """Run commands at a moment at which Redis has the identity of the directory.

        Args:
            ask: Adds the commands to a transaction.

        Returns:
            Their replies.

        Raises:
            StorageMismatchError: Redis has another identity, or none.
            RedisError: Redis does not answer.
            OSError: The directory cannot be read.
        """
        with self._client.pipeline() as pipeline:
            pipeline.get(IDENTITY)
            ask(pipeline)
            known, *replies = pipeline.execute()
        if known is None or known != self._kept():
            raise StorageMismatchError(self.fault() or "The results directory and Redis have no identity yet.")
        return replies

    def settle(self) -> None:
        """Give both an identity if neither has one and nothing shows that they do not belong together.

        Raises:
            StorageMismatchError: They do not belong together.
            RedisError: Redis does not answer.
            OSError: The directory cannot be read or written.
        """
        if fault := self.fault():
            raise StorageMismatchError(fault)
        offer = str(run_script(self._client, "offer_identity", [IDENTITY, IDENTITY_OFFER], secrets.token_hex(16)))
        if offer:
            if self._kept() != offer:
                self._keep(offer)
            self._accept(offer)

    def join(self) -> None:
        """Give both a new identity, whatever they had: an administrator says that they belong together.

        Raises:
            RedisError: Redis does not answer.
            OSError: The directory cannot be written.
        """
        identity = secrets.token_hex(16)
        self._keep(identity)
        with self._client.pipeline() as pipeline:
            pipeline.set(IDENTITY, identity)
            pipeline.delete(IDENTITY_OFFER)
            pipeline.execute()

    def _difference(self) -> str | None:
        stored = self._kept()
        offered, known = cast("list[str | None]", self._client.mget(IDENTITY_OFFER, IDENTITY))
        if stored is None and known is None:
            return self._mismatch_evidence()
        if stored is None:
            return "The results directory is not the one that belongs to this Redis: its identity is missing."
        if known is None:
            return None if stored == offered else "Redis does not know this results directory: its identity is missing."
        return None if stored == known else "The results directory and Redis belong to different deployments."

    def _kept(self) -> str | None:
        """The identity in the directory; text that is not an identity equals none."""
        try:
            return self._results.blobs.read(_FILE).decode(errors="replace").strip()
        except BlobNotFoundError:
            return None

    def _accept(self, offer: str) -> None:
        run_script(self._client, "accept_identity", [IDENTITY, IDENTITY_OFFER], offer)

    def _keep(self, identity: str) -> None:
        self._results.blobs.put(_FILE, f"{identity}\n".encode(), overwrite=True, use_reserve=True)

    def _mismatch_evidence(self) -> str | None:
        """Describe evidence that directory and Redis, both without identity, do not belong together; None if none."""
        known = cast("list[str]", self._client.zrange(RESULTS, 0, _NUM_COMPARED - 1, desc=True))
        if known and not any(map(self._results.holds, known)):
            return "The results that Redis knows are not in the results directory."
        if not known and not self._results.is_empty():
            return "Redis knows none of the results in the results directory."
        jobs = [JOB + job_id for job_id in self._checkpoints.job_ids()[:_NUM_COMPARED]]
        if jobs and not self._client.exists(*jobs):
            return "Redis knows none of the jobs whose checkpoints are in the results directory."
        return None
