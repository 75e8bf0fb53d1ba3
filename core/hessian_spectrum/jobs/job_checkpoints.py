"""Checkpoints of jobs: directories of immutable pieces, each named by its SHA-256, and documents that say which."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessian_spectrum.jobs.disk import require_room
from hessian_spectrum.jobs.results import sync_directory

_JOB_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")
_DOCUMENT = re.compile(r"checkpoint-(\d{8})\.json")
NUM_KEPT = 2
"""Documents of an attempt: the last one, and the one before it in case that is damaged."""

_logger = logging.getLogger(__name__)


class CheckpointDamagedError(Exception):
    """A part of a checkpoint is missing, or not what it was."""


@dataclass(frozen=True)
class JobCheckpoint:
    """What an attempt left."""

    document: Any
    read: Callable[[str], bytes]
    """A piece by digest.  Raises:  CheckpointDamagedError if it is missing or damaged."""


class CheckpointStore:
    """Checkpoints of all jobs; every process of a deployment sees the same ones.

    Args:
        directory: Made when first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of_attempt(self, job_id: str, attempt: int) -> "JobCheckpoints":
        """Those that an attempt may read and write; attempts count from 1, 0: for who only reads."""
        return JobCheckpoints(self._directory, job_id, attempt)

    def of_shard(self, job_id: str, index: int, attempt: int) -> "JobCheckpoints":
        """Those of one shard of a job, whose attempts are counted for themselves; 0: for who only reads."""
        return JobCheckpoints(_job_directory(self._directory, job_id) / "shards", str(index), attempt)

    def job_ids(self) -> list[str]:
        """Jobs that have checkpoints."""
        return [path.name for path in _directories(self._directory) if _JOB_ID.fullmatch(path.name)]

    def discard(self, job_id: str) -> None:
        """Remove all of a job; nothing happens if there are none."""
        shutil.rmtree(_job_directory(self._directory, job_id), ignore_errors=True)


class JobCheckpoints:
    """The checkpoints of one attempt at a job, and those that earlier ones left.

    An attempt writes to a directory of its own, so that one which lost its lease without knowing does no harm.

    Args:
        directory: Of all jobs' checkpoints, made when first needed.
        attempt: 1, 2, .
    """

    def __init__(self, directory: Path, job_id: str, attempt: int) -> None:
        self._job = _job_directory(directory, job_id)
        self._own = self._job / f"{attempt:04d}"

    def put(self, piece: bytes | memoryview) -> str:
        """Write a piece, unless it is there, and return its digest.

        Raises:
            OSError: If the disk counts as full, for one.
        """
        digest = hashlib.sha256(piece).hexdigest()
        path = self._own / digest
        if not path.exists():
            self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._linked_from_earlier(digest):
                require_room(self._own, len(piece))
                _write(path, piece)
        return digest

    def commit(self, document: Any, pieces: set[str]) -> None:
        """Make a JSON document, and the pieces that it names, the newest checkpoint; what is older is removed.

        Raises:
            OSError: A file cannot be read or written.
        """
        self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
        numbers = _numbers(self._own)
        content = json.dumps({"pieces": sorted(pieces), "document": document}, allow_nan=False).encode()
        sealed = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
        _write(self._own / _name(max(numbers, default=0) + 1), sealed)
        sync_directory(self._own)
        self._remove_old()

    def remove_rest(self) -> None:
        """Remove the pieces that no checkpoint names: those that were put, and cannot be committed.

        Raises:
            OSError: A file cannot be read or written.
        """
        if self._own.is_dir():
            self._remove_unnamed(sorted(_numbers(self._own)))

    def newest_first(self) -> Iterator[JobCheckpoint]:
        """What earlier attempts left, and this one wrote; documents that are damaged are passed over."""
        for directory in sorted(_directories(self._job), reverse=True):
            for number in sorted(_numbers(directory), reverse=True):
                path = directory / _name(number)
                try:
                    yield JobCheckpoint(_document(path)["document"], _Reader(directory))
                except CheckpointDamagedError as error:
                    _logger.warning("checkpoint ignored: %s", error)

    def _linked_from_earlier(self, digest: str) -> bool:
        """Whether an earlier attempt had the piece, whole."""
        for directory in _directories(self._job):
            if directory != self._own and (directory / digest).exists():
                try:
                    _Reader(directory)(digest)
                    os.link(directory / digest, self._own / digest)
                except (OSError, CheckpointDamagedError):
                    continue
                return True
        return False

    def _remove_old(self) -> None:
        numbers = sorted(_numbers(self._own))
        if len(numbers) >= NUM_KEPT:
            for directory in _directories(self._job):
                if directory.name < self._own.name:
                    shutil.rmtree(directory, ignore_errors=True)
        self._remove_unnamed(numbers)

    def _remove_unnamed(self, numbers: list[int]) -> None:
        needed: set[str] = set()
        for number in numbers[-NUM_KEPT:]:
            path = self._own / _name(number)
            with contextlib.suppress(CheckpointDamagedError):
                needed.update({path.name, *_document(path)["pieces"]})
        for path in self._own.iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Reader:
    directory: Path

    def __call__(self, digest: str) -> bytes:
        try:
            content = (self.directory / digest).read_bytes()
        except OSError as error:
            raise CheckpointDamagedError(f"{digest}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise CheckpointDamagedError(f"{digest} is damaged")
        return content


def _document(path: Path) -> dict[str, Any]:
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointDamagedError(f"{path.name}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise CheckpointDamagedError(f"{path.name} is damaged")
    return dict(json.loads(content))


def _name(number: int) -> str:
    return f"checkpoint-{number:08d}.json"


def _job_directory(directory: Path, job_id: str) -> Path:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no id of a job")
    return directory / job_id


def _directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _numbers(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return [int(found[1]) for path in directory.iterdir() if (found := _DOCUMENT.fullmatch(path.name))]


def _write(path: Path, content: bytes | memoryview) -> None:
    """All of it under its name, on the disk, or nothing."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
