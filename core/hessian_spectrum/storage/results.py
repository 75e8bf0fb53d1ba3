"""The result store: immutable documents, each named by its SHA-256, with the arrays that belong to them."""

import hashlib
import struct
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.storage.blob_store import DIGEST, BlobInfo, BlobNotFoundError, BlobStore, sha256_of
from hessian_spectrum.storage.local_directory import Draft
from hessian_spectrum.storage.npy_headers import read_npy_header

_CHUNK_BYTES = 2**20
_SECONDS_BETWEEN_FOLDERS = 0.002
"""Pause in a listing of all files, so that thousands of them do not hold the interpreter for long."""

_LOCAL_HEADER_BYTES = 30
_LENGTHS_AT = 26
"""Offset in bytes, within a local header, of the lengths of the name and of the extra field that follow it."""


class ResultDamagedError(Exception):
    """The file of a result is missing, or its content does not have the digest in its name."""


@dataclass(frozen=True)
class ArraysFile:
    """A draft of an npz file, which becomes part of a result with its document."""

    draft: Draft
    sha256: str
    num_bytes: int


class ResultStore:
    """Documents by digest, each with an npz file of arrays if it has one; the document holds the digest of that.

    Args:
        blobs: Where they are stored, at `DI/DIGEST.json` and `DI/DIGEST.npz`, where DI are the first two digits.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs

    def holds(self, digest: str) -> bool:
        """Return whether the document of this digest is there, damaged or not."""
        try:
            self.blobs.stat(_name(digest, "json"))
        except BlobNotFoundError:
            return False
        return True

    def is_empty(self) -> bool:
        """Return whether there is no file of any result."""
        return next(self._files(), None) is None

    @contextmanager
    def drafted(
        self, arrays: Mapping[str, NDArray[Any]], report: Callable[[int], None] = lambda _: None
    ) -> Iterator[ArraysFile]:
        """Write arrays to a draft, which is deleted at the end of the block unless `write` takes it.

        Args:
            arrays: Arrays by name; they are written one after the other and never held as a whole.
            report: Called with the bytes written so far, piece by piece; what it raises ends the writing.

        Yields:
            The draft.

        Raises:
            OSError: It cannot be written, such as on a full disk.
        """
        with self.blobs.draft(report=report) as draft:
            np.savez(draft.file, allow_pickle=False, **arrays)
            yield ArraysFile(draft, draft.sha256(), draft.num_bytes)

    def write(self, content: bytes, arrays: ArraysFile | None = None) -> str:
        """Store a document and its arrays; a reader sees all of them or nothing.

        Files that exist already stay if they are undamaged, and are replaced if not.

        Args:
            content: The document.
            arrays: Its arrays, if it has any.

        Returns:
            The digest of the document.

        Raises:
            OSError: They cannot be written, such as on a full disk; then there is no document.
        """
        digest = hashlib.sha256(content).hexdigest()
        if arrays is not None:
            name = _name(digest, "npz")
            if not arrays.draft.commit(name) and not self._is_whole(name, arrays.sha256):
                arrays.draft.commit(name, overwrite=True)
        name = _name(digest, "json")
        if not self.blobs.put(name, content, use_reserve=True) and not self._is_whole(name, digest):
            self.blobs.put(name, content, overwrite=True, use_reserve=True)
        return digest

    def read(self, digest: str) -> bytes:
        """Read the document of a digest.

        Args:
            digest: The digest.

        Returns:
            The document.

        Raises:
            ResultDamagedError: It is missing or damaged.
            OSError: The store is gone.
        """
        try:
            content = self.blobs.read(_name(digest, "json"))
        except BlobNotFoundError:
            raise ResultDamagedError(f"result {digest} is missing") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise ResultDamagedError(f"result {digest} is damaged")
        return content

    def stream_arrays(self, digest: str, sha256: str) -> Iterator[bytes]:
        """Read the npz file of a result in pieces.

        Args:
            digest: Digest of the document.
            sha256: Digest of the npz file.

        Returns:
            The pieces; the last one comes only if the digest of all is right.

        Raises:
            ResultDamagedError: At once if the file is missing, before the last piece if it is damaged.
        """
        with _present(digest):
            return _checked_pieces(self.blobs.open(_name(digest, "npz")), sha256)

    def mapped_array(self, digest: str, name: str) -> NDArray[Any]:
        """Map one array of a result into memory.

        Args:
            digest: Digest of the document.
            name: Name of the array.

        Returns:
            The array, which is read from the disk when it is used.

        Raises:
            ResultDamagedError: It is missing.
        """
        with _present(digest):
            return mapped_member(self.blobs.local_file(_name(digest, "npz")), name)

    def version_of_arrays(self, digest: str) -> str:
        """Identify the state of the npz file of a result.

        Args:
            digest: Digest of the document.

        Returns:
            A value that changes when the file is written to or replaced.

        Raises:
            ResultDamagedError: The file is missing.
        """
        with _present(digest):
            return self.blobs.stat(_name(digest, "npz")).version

    def delete(self, digest: str) -> None:
        """Remove the document and its arrays; nothing happens if they are not there."""
        for suffix in ("json", "npz"):
            self.blobs.delete(_name(digest, suffix))

    def sizes(self) -> dict[str, int]:
        """Bytes of the stored files of each result, by digest."""
        sizes: dict[str, int] = {}
        for digest, info in self._files():
            sizes[digest] = sizes.get(digest, 0) + info.num_bytes
        return sizes

    def older_than(self, seconds: float) -> list[str]:
        """Digests of results none of whose files was written within this time."""
        written: dict[str, float] = {}
        for digest, info in self._files():
            written[digest] = max(info.modified_at, written.get(digest, 0.0))
        return sorted(digest for digest, when in written.items() if time.time() - when > seconds)

    def _files(self) -> Iterator[tuple[str, BlobInfo]]:
        for folder in self.blobs.folders():
            if len(folder) != 2:  # other files of the deployment are in folders with longer names
                continue
            for info in self.blobs.list(f"{folder}/"):
                digest, _, suffix = info.name.removeprefix(f"{folder}/").partition(".")
                if DIGEST.fullmatch(digest) and suffix in ("json", "npz"):
                    yield digest, info
            time.sleep(_SECONDS_BETWEEN_FOLDERS)

    def _is_whole(self, name: str, sha256: str) -> bool:
        with self.blobs.open(name) as file:
            return sha256_of(file) == sha256


@contextmanager
def _present(digest: str) -> Iterator[None]:
    """Raise ResultDamagedError in place of BlobNotFoundError, or where the file lacks an array.

    Args:
        digest: Digest of the document.

    Yields:
        Nothing.

    Raises:
        ResultDamagedError: The block raises BlobNotFoundError or KeyError.
    """
    try:
        yield
    except (BlobNotFoundError, KeyError):
        raise ResultDamagedError(f"the arrays of result {digest} are missing") from None


def _name(digest: str, suffix: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise ResultDamagedError(f"{digest!r} is no digest")
    return f"{digest[:2]}/{digest}.{suffix}"


def _checked_pieces(file: BinaryIO, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with file:
        piece = file.read(_CHUNK_BYTES)
        while piece:
            digest.update(piece)
            following = file.read(_CHUNK_BYTES)
            if not following and digest.hexdigest() != sha256:
                raise ResultDamagedError(f"{file.name} is damaged")
            yield piece
            piece = following


def mapped_member(path: Path, name: str) -> NDArray[Any]:
    """Map an array of an npz file into memory.

    Args:
        path: Path of the file, as `np.savez` writes it, uncompressed.
        name: Name of the array.

    Returns:
        The array, which is read from the disk when it is used.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: It has no such array.
        ValueError: The array is compressed, or holds objects.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        file.seek(member.header_offset)
        lengths = struct.unpack_from("<HH", file.read(_LOCAL_HEADER_BYTES), _LENGTHS_AT)
        file.seek(sum(lengths), 1)
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} cannot be mapped")
        shape, is_fortran, dtype = read_npy_header(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
