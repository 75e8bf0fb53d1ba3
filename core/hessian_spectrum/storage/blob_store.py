"""The interface through which all files are stored, in a directory or in an object store."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

if TYPE_CHECKING:
    from hessian_spectrum.storage.local_directory import Draft

DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 as it appears in names."""

_CHUNK_BYTES = 2**18


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


class BlobStore(Protocol):
    """Named, immutable sequences of bytes that all processes of a deployment share.

    Every method raises `StorageUnavailableError`, or another `OSError`, if the store does not work.
    """

    def draft(
        self, *, report: Callable[[int], None] | None = None, use_reserve: bool = False
    ) -> "AbstractContextManager[Draft]":
        """A local file to write, which `Draft.commit` turns into a blob; without that it is gone after the context."""
        ...

    def put(
        self,
        name: str,
        content: bytes | memoryview,
        *,
        overwrite: bool = False,
        use_reserve: bool = False,
        durable: bool = True,
    ) -> bool:
        """Keep bytes that fit into memory under a name, all of them or nothing.

        Args:
            name: Name of the blob.
            content: The bytes.
            overwrite: Whether to replace a blob of this name.
            use_reserve: Whether the bytes may take what is reserved for Redis.
            durable: Whether the blob must survive a loss of power, which costs milliseconds. If not, it may be damaged
                afterwards, which a digest in its content must show.

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
