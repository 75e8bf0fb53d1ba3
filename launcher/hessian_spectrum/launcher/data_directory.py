"""The directory of everything that outlives a stack, used by one stack at a time."""

import contextlib
import fcntl
import os
from pathlib import Path


class DataDirectoryError(Exception):
    """Another stack uses the directory, or it cannot be created or written."""


class DataDirectory:
    """The data directory, created if missing and locked while a process of this stack lives.

    Raises:
        DataDirectoryError: If the data directory cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not str(self.path).isprintable():
            raise DataDirectoryError(f"{str(self.path)!r} holds characters that no configuration file can hold")
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.results.mkdir(exist_ok=True)
            self.models.mkdir(exist_ok=True)
            self.redis.mkdir(exist_ok=True, mode=0o700)
            self.lock_descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirectoryError(f"cannot use {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(self.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.lock_descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self.lock_descriptor)
            raise DataDirectoryError(f"{self.path} is in use by process {holder or 'unknown'}") from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.truncate(self.lock_descriptor, 0)
            os.pwrite(self.lock_descriptor, str(os.getpid()).encode(), 0)

    @property
    def results(self) -> Path:
        """Directory of the results of jobs."""
        return self.path / "results"

    @property
    def models(self) -> Path:
        """Default directory of checkpoints."""
        return self.path / "models"

    @property
    def keys(self) -> Path:
        """Default file of the API keys."""
        return self.path / "keys.json"

    @property
    def redis(self) -> Path:
        """Directory of the embedded Redis server."""
        return self.path / "redis"

    def release(self) -> None:
        """Release the lock, unless a child still holds it."""
        os.close(self.lock_descriptor)
