"""Files of jobs that have not ended: large requests, and checkpoints."""

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hessian_spectrum.storage.blob_store import BlobNotFoundError, BlobStore, StorageUnavailableError

LARGE_REQUEST_BYTES = 2**16
"""Size in bytes above which a request is stored in a file; shorter ones are in Redis, which is durable, too."""

ABANDONED_SECONDS = 6 * 3600.0
"""Seconds after which a request without a job is abandoned, far longer than writing the job's record takes."""

_REQUEST_JOB_ID = re.compile(r"[0-9a-f]{32}")

_JOB_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")
_DOCUMENT = re.compile(r"checkpoint-(\d{8})\.json")
NUM_KEPT = 2
"""Number of documents kept of an attempt: the last one, and the one before it in case the last one is damaged."""

_logger = logging.getLogger(__name__)


class RequestDamagedError(OSError):
    """The file of a request is missing, or does not have the content that the record of its job states."""


class RequestFiles:
    """Requests by the id of their job; every process of a deployment sees the same ones.

    A file belongs to one job alone, so that nobody else needs it when the job has ended.

    Args:
        blobs: Where they are stored, at `JOB.json`.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def write(self, job_id: str, text: str) -> None:
        """Store a request; it can be read when this returns.

        Args:
            job_id: Id of the job.
            text: The request as JSON.

        Raises:
            OSError: It cannot be written, such as on a full disk; then no file is left.
        """
        self._blobs.put(_request_name(job_id), text.encode(), overwrite=True)

    def holds(self, job_id: str) -> bool:
        """Return whether the file is there."""
        try:
            self._blobs.stat(_request_name(job_id))
        except BlobNotFoundError:
            return False
        return True

    def read(self, job_id: str, sha256: str) -> str:
        """Read the request of a job.

        Args:
            job_id: Id of the job.
            sha256: Digest that the record of the job states.

        Returns:
            The request as JSON.

        Raises:
            RequestDamagedError: The file of the request is missing or damaged.
        """
        try:
            content = self._blobs.read(_request_name(job_id))
        except BlobNotFoundError:
            raise RequestDamagedError(f"the request of job {job_id} is missing") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RequestDamagedError(f"the request of job {job_id} is damaged")
        return content.decode()

    def discard(self, job_id: str) -> None:
        """Delete the file if that is possible; nothing happens if there is none."""
        with contextlib.suppress(OSError):
            self._blobs.delete(_request_name(job_id))

    def job_ids(self, least_age_seconds: float) -> list[str]:
        """Jobs whose requests were written at least so many seconds ago; abandoned drafts are removed."""
        self._blobs.remove_abandoned_drafts(ABANDONED_SECONDS)
        ids = []
        for info in self._blobs.list():
            job_id = info.name.removesuffix(".json")
            if time.time() - info.modified_at >= least_age_seconds and _REQUEST_JOB_ID.fullmatch(job_id):
                ids.append(job_id)
        return sorted(ids)


def _request_name(job_id: str) -> str:
    if not _REQUEST_JOB_ID.fullmatch(job_id):
        raise RequestDamagedError(f"{job_id!r} is no id of a job")
    return f"{job_id}.json"


class CheckpointDamagedError(Exception):
    """A piece of a checkpoint is missing or has changed."""


@dataclass(frozen=True)
class JobCheckpoint:
    """A checkpoint of an attempt.

    Attributes:
        document: Its JSON document.
        read: Reads a piece by its digest, and raises CheckpointDamagedError if the piece is missing or damaged.
    """

    document: Any
    read: Callable[[str], bytes]


class CheckpointStore:
    """Checkpoints of all jobs; every process of a deployment sees the same ones.

    Checkpoints are immutable pieces, each named by its SHA-256, and documents that name pieces.

    Args:
        blobs: Where they are stored, at `JOB/ATTEMPT/` and `JOB/shards/SHARD/ATTEMPT/`.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def of_attempt(self, job_id: str, attempt: int) -> "JobCheckpoints":
        """Checkpoints that an attempt may read and write; attempts count from 1, and 0 only reads."""
        return JobCheckpoints(self._blobs, job_id, attempt)

    def of_shard(self, job_id: str, index: int, attempt: int) -> "JobCheckpoints":
        """Checkpoints of one shard of a job, whose attempts are counted separately; 0 only reads."""
        return JobCheckpoints(self._blobs.within(f"{_checked(job_id)}/shards"), str(index), attempt)

    def job_ids(self) -> list[str]:
        """Jobs that have checkpoints."""
        return [name for name in self._blobs.folders() if _JOB_ID.fullmatch(name)]

    def discard(self, job_id: str) -> None:
        """Remove all checkpoints of a job as far as that is possible; nothing happens if there are none."""
        with contextlib.suppress(OSError):
            self._blobs.delete_all(f"{_checked(job_id)}/")


class JobCheckpoints:
    """The checkpoints of one attempt at a job, and those of earlier attempts.

    An attempt writes to a folder of its own, so that one which lost its lease without knowing does no harm.

    Args:
        blobs: Checkpoints of all jobs.
        job_id: Id of the job.
        attempt: Number of the attempt, from 1.
    """

    def __init__(self, blobs: BlobStore, job_id: str, attempt: int) -> None:
        self._blobs = blobs
        self._job = f"{_checked(job_id)}/"
        self._own = f"{self._job}{attempt:04d}/"

    def put(self, piece: bytes | memoryview) -> str:
        """Write a piece, unless it is there.

        Args:
            piece: The bytes.

        Returns:
            The digest of the piece.

        Raises:
            OSError: It cannot be written, such as on a full disk.
        """
        digest = hashlib.sha256(piece).hexdigest()
        if not self._has(digest) and not self._copied_from_earlier(digest):
            self._blobs.put(self._own + digest, piece)
        return digest

    def commit(self, document: Any, pieces: set[str]) -> None:
        """Make a document, and the pieces that it names, the newest checkpoint, and remove older ones.

        Args:
            document: The document, which JSON can hold.
            pieces: Digests of the pieces.

        Raises:
            OSError: A file cannot be read or written.
        """
        numbers = self._numbers(self._own)
        content = json.dumps({"pieces": sorted(pieces), "document": document}, allow_nan=False).encode()
        sealed = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
        number = max(numbers, default=0) + 1
        self._blobs.put(self._own + _document_name(number), sealed, overwrite=True, use_reserve=True)
        self._remove_old([*numbers, number])

    def remove_rest(self) -> None:
        """Remove the pieces that no checkpoint names: those that were put and cannot be committed.

        Raises:
            OSError: A file cannot be read or written.
        """
        self._remove_unnamed(self._numbers(self._own))

    def newest_first(self) -> Iterator[JobCheckpoint]:
        """Read the checkpoints of earlier attempts and of this one, newest first.

        Yields:
            Each checkpoint whose document is not damaged.

        Raises:
            StorageUnavailableError: The store does not answer.
        """
        for folder in sorted(self._folders(), reverse=True):
            for number in reversed(self._numbers(folder)):
                try:
                    document = self._document(folder, number)["document"]
                except CheckpointDamagedError as error:
                    _logger.warning("checkpoint ignored: %s", error)
                else:
                    yield JobCheckpoint(document, _Reader(self._blobs, folder))

    def _has(self, digest: str) -> bool:
        try:
            self._blobs.stat(self._own + digest)
        except BlobNotFoundError:
            return False
        return True

    def _copied_from_earlier(self, digest: str) -> bool:
        """Copy a piece from an earlier attempt; False if none has it undamaged."""
        for folder in self._folders():
            if folder != self._own:
                try:
                    _Reader(self._blobs, folder)(digest)
                    self._blobs.copy(folder + digest, self._own + digest)
                except FileExistsError:
                    return True
                except (OSError, CheckpointDamagedError):
                    continue
                return True
        return False

    def _remove_old(self, numbers: list[int]) -> None:
        if len(numbers) >= NUM_KEPT:
            for folder in self._folders():
                if folder < self._own:
                    self._blobs.delete_all(folder)
        self._remove_unnamed(numbers)

    def _remove_unnamed(self, numbers: list[int]) -> None:
        needed: set[str] = set()
        for number in numbers[-NUM_KEPT:]:
            with contextlib.suppress(CheckpointDamagedError):
                needed.update({_document_name(number), *self._document(self._own, number)["pieces"]})
        for name in list(self._names(self._own)):
            if name not in needed:
                self._blobs.delete(self._own + name)

    def _folders(self) -> list[str]:
        """Folders of the attempts."""
        return [f"{self._job}{name}/" for name in self._blobs.folders(self._job) if name.isdecimal()]

    def _numbers(self, folder: str) -> list[int]:
        """Numbers of the documents in a folder, ascending."""
        return sorted(int(match[1]) for name in self._names(folder) if (match := _DOCUMENT.fullmatch(name)))

    def _names(self, folder: str) -> Iterator[str]:
        return (info.name.removeprefix(folder) for info in self._blobs.list(folder))

    def _document(self, folder: str, number: int) -> dict[str, Any]:
        digest, _, content = _read_blob(self._blobs, folder + _document_name(number)).partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise CheckpointDamagedError(f"{_document_name(number)} is damaged")
        return dict(json.loads(content))


@dataclass(frozen=True)
class _Reader:
    blobs: BlobStore
    folder: str

    def __call__(self, digest: str) -> bytes:
        content = _read_blob(self.blobs, self.folder + digest)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CheckpointDamagedError(f"{digest} is damaged")
        return content


def _read_blob(blobs: BlobStore, name: str) -> bytes:
    try:
        return blobs.read(name)
    except StorageUnavailableError:  # says nothing about the file: work that may be there is not given up
        raise
    except OSError as error:
        raise CheckpointDamagedError(f"{name.rpartition('/')[2]}: {error.strerror or 'it is missing'}") from None


def _document_name(number: int) -> str:
    return f"checkpoint-{number:08d}.json"


def _checked(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no id of a job")
    return job_id
