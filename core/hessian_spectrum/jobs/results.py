"""The result store: a directory of immutable files, each named by the SHA-256 of a result's document."""

import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.jobs.disk import make_directory, require_room
from hessian_spectrum.jobs.npz_members import mapped_member

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DRAFT = "draft-"
_CHUNK_BYTES = 2**20
_SECONDS_BETWEEN_DIRECTORIES = 0.002
"""Of a look at all files, so that it does not hold the interpreter for as long as thousands of them take."""


class ResultDamagedError(Exception):
    """The file of a result is missing or does not have the content that its name promises."""


@dataclass(frozen=True)
class ArraysFile:
    """An npz file that waits for the document that it belongs to."""

    path: Path
    sha256: str
    num_bytes: int


class ResultStore:
    """Documents by digest, each with an npz file of arrays if it has one; the document holds the digest of that.

    Args:
        directory: Made if missing; every process of a deployment sees the same one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        make_directory(directory)

    def holds(self, digest: str) -> bool:
        """Whether the document of this digest is there, damaged or not."""
        return self._path(digest, "json").exists()

    def is_empty(self) -> bool:
        """Whether there is no file of any result."""
        return next(self._files(), None) is None

    @contextmanager
    def drafted(
        self, arrays: Mapping[str, NDArray[Any]], report: Callable[[int], None] = lambda _: None
    ) -> Iterator[ArraysFile]:
        """Arrays as a file that `write` takes; without that it is gone at the end.

        Args:
            report: Told the bytes written so far, piece by piece; what it raises ends the writing.

        Raises:
            OSError: If the disk counts as full, for one.
        """
        descriptor, name = tempfile.mkstemp(dir=self.directory, prefix=_DRAFT, suffix=".npz")
        path = Path(name)
        try:
            with io.BufferedRandom(_ReportingFile(descriptor, report)) as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(descriptor)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield ArraysFile(path, digest, path.stat().st_size)
        finally:
            path.unlink(missing_ok=True)

    def write(self, content: bytes, arrays: ArraysFile | None = None) -> str:
        """Store the document, and its arrays, for good and return its digest; a reader sees all of it or nothing.

        Raises:
            OSError: If the disk is full, for one; then nothing is left.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest, "json")
        path.parent.mkdir(exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=_DRAFT)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.chmod(draft, 0o640)
            if arrays is not None:
                os.chmod(arrays.path, 0o640)
                os.replace(arrays.path, self._path(digest, "npz"))
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)
        sync_directory(path.parent)
        return digest

    def read(self, digest: str) -> bytes:
        """The document of a digest.

        Raises:
            ResultDamagedError: If it is missing or damaged.
            OSError: Also if the directory is gone.
        """
        try:
            content = self._path(digest, "json").read_bytes()
        except FileNotFoundError:
            raise self._missing(f"result {digest} is missing") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise ResultDamagedError(f"result {digest} is damaged")
        return content

    def stream_arrays(self, digest: str, sha256: str) -> Iterator[bytes]:
        """The npz file beside the document of this digest, in pieces; the last one only when all were right.

        Raises:
            ResultDamagedError: At once if the file is missing, before the last piece if it is damaged.
        """
        try:
            file = self._path(digest, "npz").open("rb")
        except FileNotFoundError:
            raise self._missing(f"the arrays of result {digest} are missing") from None
        return _checked_pieces(file, sha256)

    def mapped_array(self, digest: str, name: str) -> NDArray[Any]:
        """One array of the npz file beside the document of this digest, of which only what is looked at is read.

        Raises:
            ResultDamagedError: If it is missing.
        """
        try:
            return mapped_member(self._path(digest, "npz"), name)
        except (FileNotFoundError, KeyError):
            raise self._missing(f"the arrays of result {digest} are missing") from None

    def version_of_arrays(self, digest: str) -> tuple[int, ...]:
        """What changes when somebody writes to the npz file, or puts another one in its place.

        Raises:
            ResultDamagedError: If it is missing.
        """
        try:
            status = self._path(digest, "npz").stat()
        except FileNotFoundError:
            raise self._missing(f"the arrays of result {digest} are missing") from None
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def delete(self, digest: str) -> None:
        """Remove the document and its arrays; nothing happens if they are not there."""
        for suffix in ("json", "npz"):
            self._path(digest, suffix).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of the files of each result, by digest, as they are on the disk now."""
        found: dict[str, int] = {}
        for digest, status in self._files():
            found[digest] = found.get(digest, 0) + status.st_size
        return found

    def older_than(self, seconds: float) -> list[str]:
        """Digests of results none of whose files was written within this time."""
        written: dict[str, float] = {}
        for digest, status in self._files():
            written[digest] = max(status.st_mtime, written.get(digest, 0.0))
        return sorted(digest for digest, when in written.items() if time.time() - when > seconds)

    def remove_abandoned_drafts(self, seconds: float) -> None:
        """Remove what processes left that were killed, if nobody has written to it for this time."""
        for pattern in (f"{_DRAFT}*", f"[0-9a-f][0-9a-f]/{_DRAFT}*"):
            for path in self.directory.glob(pattern):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > seconds:
                        path.unlink()

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for directory in self.directory.glob("[0-9a-f][0-9a-f]"):
            for path in directory.iterdir():
                if _DIGEST.fullmatch(path.stem) and path.suffix in (".json", ".npz"):
                    with suppress(FileNotFoundError):
                        yield path.stem, path.stat()
            time.sleep(_SECONDS_BETWEEN_DIRECTORIES)

    def _missing(self, text: str) -> ResultDamagedError:
        """Raises:  OSError if everything is missing, as when a volume is not mounted."""
        os.stat(self.directory)
        return ResultDamagedError(text)

    def _path(self, digest: str, suffix: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ResultDamagedError(f"{digest!r} is no digest")
        return self.directory / digest[:2] / f"{digest}.{suffix}"


class _ReportingFile(io.FileIO):
    """A file that says how far it was written."""

    def __init__(self, descriptor: int, report: Callable[[int], None]) -> None:
        super().__init__(descriptor, "r+")
        self._report = report
        self._num_bytes = 0

    def write(self, data: Any, /) -> int:
        require_room(self.fileno(), len(data))
        count = super().write(data)
        self._num_bytes += count
        self._report(self._num_bytes)
        return count


def _checked_pieces(file: BinaryIO, sha256: str) -> Iterator[bytes]:
    found = hashlib.sha256()
    with file:
        piece = file.read(_CHUNK_BYTES)
        while piece:
            found.update(piece)
            following = file.read(_CHUNK_BYTES)
            if not following and found.hexdigest() != sha256:
                raise ResultDamagedError(f"{file.name} is damaged")
            yield piece
            piece = following


def sync_directory(directory: Path) -> None:
    """Write the names of its files to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
