"""Requests that are too large for Redis: a file for each job, until the job ends."""

import contextlib
import hashlib
import re
import time

from hessian_spectrum.storage.blob_store import BlobNotFoundError, BlobStore

LARGE_REQUEST_BYTES = 2**16
"""A longer request is a file; what is shorter is as well off in Redis, which writes it to a disk, too."""

ABANDONED_SECONDS = 6 * 3600.0
"""Far longer than it takes from writing a request to writing the record of its job."""

_JOB_ID = re.compile(r"[0-9a-f]{32}")


class RequestDamagedError(OSError):
    """The file of a request is missing, or does not have the content that the record of its job promises."""


class RequestFiles:
    """Requests by the id of their job; every process of a deployment sees the same ones.

    A file belongs to one job alone, so that nobody else needs it when the job has ended.

    Args:
        blobs: Where they are kept, at `JOB.json`.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def write(self, job_id: str, text: str) -> None:
        """Keep a request for good; it can be read when this returns.

        Raises:
            OSError: If the disk is full, for one; then nothing is left.
        """
        self._blobs.put(_name(job_id), text.encode(), overwrite=True)

    def holds(self, job_id: str) -> bool:
        """Whether the file is there."""
        try:
            self._blobs.stat(_name(job_id))
        except BlobNotFoundError:
            return False
        return True

    def read(self, job_id: str, sha256: str) -> str:
        """The request of a job.

        Raises:
            RequestDamagedError: The file of the request is missing or damaged.
        """
        try:
            content = self._blobs.read(_name(job_id))
        except BlobNotFoundError:
            raise RequestDamagedError(f"the request of job {job_id} is missing") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RequestDamagedError(f"the request of job {job_id} is damaged")
        return content.decode()

    def discard(self, job_id: str) -> None:
        """Remove the file, if it can be done; nothing happens if there is none."""
        with contextlib.suppress(OSError):
            self._blobs.delete(_name(job_id))

    def job_ids(self, least_age_seconds: float) -> list[str]:
        """Jobs whose requests were written so long ago; what was left half written hours ago is removed."""
        self._blobs.remove_abandoned_drafts(ABANDONED_SECONDS)
        found = []
        for info in self._blobs.list():
            job_id = info.name.removesuffix(".json")
            if time.time() - info.modified_at >= least_age_seconds and _JOB_ID.fullmatch(job_id):
                found.append(job_id)
        return sorted(found)


def _name(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise RequestDamagedError(f"{job_id!r} is no id of a job")
    return f"{job_id}.json"
