"""The interface through which all files are stored, in a directory or in an object store."""

import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, cast

LEAST_FREE_BYTES = 256 * 2**20
"""Free space in bytes below which a disk counts as full. It is reserved for Redis, which may write to the same disk and
stops when there is no room."""

DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 as it appears in names."""

_CHUNK_BYTES = 2**18


def require_room(place: Path | int, num_bytes: int) -> None:
    """Check that a disk has room for so many bytes and does not count as full afterwards.

    Args:
        place: A path on the disk, or an open file.
        num_bytes: Bytes that are to be written.

    Raises:
        OSError: ENOSPC: the disk counts as full.
    """
    disk = os.statvfs(place)
    if disk.f_bavail * disk.f_frsize - num_bytes < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class BlobNotFoundError(FileNotFoundError):
    """The store works, and holds no blob of this name."""


class StorageUnavailableError(OSError):
    """The store cannot be reached, or refuses to work; it says nothing about what it holds."""


@dataclass(frozen=True)
class BlobInfo:
    """Information that a store has about a blob without reading it.

    Attributes:
        name: Its path below the store, with slashes.
        num_bytes: Its size.
        modified_ns: When it was written, in nanoseconds since 1970.
        version: Text that changes whenever the blob is written again.
    """

    name: str
    num_bytes: int
    modified_ns: int
    version: str

    @property
    def modified_at(self) -> float:
        """Time at which the blob was written, in seconds since 1970."""
        return self.modified_ns / 1e9


class Draft:
    """A local file that is being written; it becomes a blob by `commit`, or is removed with its context.

    Args:
        descriptor: Of the open, empty file; closed by `close`.
        path: Of the same file.
        publish: Makes the finished file the blob of a name, and tells whether it did.
        report: Called with the bytes written so far; an exception that it raises ends the writing.
        use_reserve: Whether the file may take the space that is reserved for Redis.
    """

    def __init__(
        self,
        descriptor: int,
        path: Path,
        publish: "Callable[[Draft, str, bool], bool]",
        *,
        report: Callable[[int], None] | None = None,
        use_reserve: bool = False,
    ) -> None:
        self.path = path
        self._publish = publish
        self._raw = _GuardedFile(descriptor, report, use_reserve=use_reserve)
        self.file: BinaryIO = cast("BinaryIO", io.BufferedRandom(self._raw))

    @property
    def num_bytes(self) -> int:
        """Bytes that the file holds; what is buffered is written first."""
        self.file.flush()
        return os.fstat(self.file.fileno()).st_size

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Append the pieces.

        Raises:
            OSError: If the disk counts as full, for example.
        """
        for piece in pieces:
            self.file.write(piece)

    def sha256(self) -> str:
        """Digest of everything that was written so far."""
        self.file.flush()
        self.file.seek(0)
        digest = sha256_of(self.file)
        self.file.seek(0, os.SEEK_END)
        return digest

    def commit(self, name: str, *, overwrite: bool = False) -> bool:
        """Keep the file under a name: afterwards it is on disk, and readers see all of it.

        Args:
            name: Of the blob.
            overwrite: Whether to replace a blob of this name.

        Returns:
            False if there was a blob of this name and `overwrite` is not set: that one stays as it is.

        Raises:
            OSError: If it cannot be kept; then there is no blob of this name, or the earlier one.
        """
        self.file.flush()
        return self._publish(self, name, overwrite)

    def close(self) -> None:
        """Close the file and remove it, unless it became a blob."""
        self._raw.close()  # what is still buffered belongs to a draft that nobody wants
        self.path.unlink(missing_ok=True)


class BlobStore(Protocol):
    """Named, immutable sequences of bytes that all processes of a deployment share.

    Every method raises `StorageUnavailableError`, or another `OSError`, if the store does not work.
    """

    def draft(
        self, *, report: Callable[[int], None] | None = None, use_reserve: bool = False
    ) -> AbstractContextManager[Draft]:
        """A local file to write, which `Draft.commit` turns into a blob; without that it is gone after the context."""
        ...

    def put(
        self, name: str, content: bytes | memoryview, *, overwrite: bool = False, use_reserve: bool = False
    ) -> bool:
        """Keep bytes that fit into memory under a name, all of them or nothing.

        Returns:
            False if there was a blob of this name and `overwrite` is not set: that one stays as it is.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to read from any position; a blob that is deleted meanwhile may end it early.

        Raises:
            BlobNotFoundError: There is no such blob.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return all bytes of a blob that fits into memory.

        Raises:
            BlobNotFoundError: There is no such blob.
        """
        ...

    def stat(self, name: str) -> BlobInfo:
        """Return the information about a blob.

        Raises:
            BlobNotFoundError: There is no such blob.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Blobs whose names begin with the prefix, in no particular order; drafts are left out."""
        ...

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the parts of names between the prefix, which is empty or ends in a slash, and the next slash."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Give a blob a second name.

        Raises:
            BlobNotFoundError: There is no blob of the first name.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove a blob; nothing happens if there is none."""
        ...

    def delete_all(self, prefix: str) -> None:
        """Remove every blob whose name begins with the prefix, which ends in a slash."""
        ...

    def local_file(self, name: str) -> Path:
        """A file of this machine with the same bytes, to be opened at once: only what is looked at need be read.

        Raises:
            BlobNotFoundError: There is no such blob.
        """
        ...

    def mark_used(self, name: str) -> None:
        """Remember that somebody used the blob now."""
        ...

    def unused(self, seconds: float) -> Iterator[BlobInfo]:
        """Blobs that nobody has written or marked as used within this time."""
        ...

    def require_present(self) -> None:
        """Check that the store itself exists; without it, every blob would seem to be missing.

        Raises:
            OSError: It is gone, as a volume that is not mounted, or cannot be reached.
        """
        ...

    def capacity(self) -> int | None:
        """Bytes of the disk that holds the blobs, free or not; None if there is no limit to speak of."""
        ...

    def remove_abandoned_drafts(self, seconds: float) -> None:
        """Remove what killed processes left half written, if nobody has written to it for this time."""
        ...

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Exclude everybody else, in whatever process, who asks for the lock of the same name."""
        ...

    def within(self, prefix: str) -> Self:
        """The part of this store whose names begin with the prefix and a slash, as a store of its own."""
        ...


def sha256_of(file: BinaryIO) -> str:
    """Digest of what follows in a file, which is read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK_BYTES):
        digest.update(piece)
    return digest.hexdigest()


class _GuardedFile(io.FileIO):
    """A file that leaves the reserve of its disk alone, and reports how far it was written."""

    def __init__(self, descriptor: int, report: Callable[[int], None] | None, *, use_reserve: bool) -> None:
        super().__init__(descriptor, "r+")
        self._report = report
        self._use_reserve = use_reserve
        self._num_bytes = 0

    def write(self, data: Any, /) -> int:
        if not self._use_reserve:
            require_room(self.fileno(), len(data))
        count = super().write(data)
        self._num_bytes += count
        if self._report is not None:
            self._report(self._num_bytes)
        return count
