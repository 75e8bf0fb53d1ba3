"""The result store: a directory of immutable files, each named by the SHA-256 of its content."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ResultDamagedError(Exception):
    """The file of a result is missing or does not have the content that its name promises."""


class ResultStore:
    """Results by digest.

    Args:  directory: made if missing; every process of a deployment sees the same one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, content: bytes) -> str:
        """Store the content for good and return its digest; a reader sees all of it or nothing."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o640)
        os.replace(file.name, path)
        _sync_directory(path.parent)
        return digest

    def read(self, digest: str) -> bytes:
        """The content of a digest.

        Raises:  ResultDamagedError if it is missing or damaged.
        """
        try:
            content = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise ResultDamagedError(f"result {digest} is missing") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise ResultDamagedError(f"result {digest} is damaged")
        return content

    def delete(self, digest: str) -> None:
        """Remove the content; nothing happens if it is not there."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ResultDamagedError(f"{digest!r} is no digest")
        return self._directory / digest[:2] / f"{digest}.json"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
