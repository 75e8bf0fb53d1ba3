"""Caches of what was read from files that have not changed: their SHA-256, and the contents of directories."""

import hashlib
import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from hessian_spectrum.api_schemas.checkpoints import CheckpointError

Identity = tuple[int, ...]

KnownDigest = tuple[str, Sequence[int], str]
"""Path of a file, its identity and its SHA-256, as JSON can hold them."""


def identity(path: Path) -> Identity:
    """Device, inode, size and times of change in nanoseconds, which change when the file does."""
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Digests:
    """Cache of the digests of files; safe to use from several threads."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Identity, str]] = {}
        self._lock = threading.Lock()

    def of(self, files: Iterable[tuple[str, Path]]) -> str:
        """Compute one digest of several files.

        Args:
            files: Name and path of each file.

        Returns:
            The SHA-256 of what `sha256sum` prints for these files.

        Raises:
            OSError: A file cannot be read.
        """
        lines = (f"{self._of_file(path)}  {name}\n" for name, path in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def known(self) -> list[KnownDigest]:
        """Return all digests in the cache, in a form for another process."""
        return [(str(path), identity, sha256) for path, (identity, sha256) in list(self._known.items())]

    def learn(self, known: Iterable[KnownDigest]) -> None:
        """Add digests that another process computed; each counts as long as its file does not change."""
        self._known |= {Path(path): (tuple(identity), sha256) for path, identity, sha256 in known}

    def _of_file(self, path: Path) -> str:
        with self._lock:  # who comes second waits for the first, and then has it for nothing
            now, known = identity(path), self._known.get(path)
            if known is None or known[0] != now:
                with path.open("rb") as file:
                    known = self._known[path] = (now, hashlib.file_digest(file, "sha256").hexdigest())
            return known[1]


T = TypeVar("T")

State = tuple[tuple[str, Identity | None], ...]


class Readings(Generic[T]):
    """Cache of what was read from directories, errors included; safe to use from several threads.

    Args:
        number: Number of names that are remembered, of which the least recently used is dropped first.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._known: OrderedDict[str, tuple[State, T | CheckpointError]] = OrderedDict()
        self._keeping = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def holds(self, name: str, directory: Path) -> bool:
        """Tell whether the cache has a current value.

        Args:
            name: Name of the value.
            directory: Directory that it was read from.

        Returns:
            Whether it was read since the files of the directory last changed.

        Raises:
            OSError: The directory cannot be read.
        """
        known = self._known.get(name)
        return known is not None and known[0] == state(directory)

    def put(self, name: str, of: State, value: T) -> None:
        """Store what another process read when the files were in this state."""
        with self._locks[name]:
            self._keep(name, (of, value))

    def of(self, name: str, directory: Path, read: Callable[[], T]) -> T:
        """Return the value of a name, and read it first where the cache has no current one.

        Args:
            name: Name of the value.
            directory: Directory that it is read from.
            read: Reads it.

        Returns:
            What `read` returns, or returned when the files of the directory were in their present state.

        Raises:
            CheckpointError: Reading raises it, or raised it for the present state.
            OSError: A file cannot be read.
        """
        with self._locks[name]:  # who comes second waits for the first, and then has it for nothing
            now = state(directory)
            known = self._known.get(name)
            if known is None or known[0] != now:
                known = now, _outcome(read)
            self._keep(name, known)
        if isinstance(known[1], CheckpointError):
            raise known[1].with_traceback(None)
        return known[1]

    def _keep(self, name: str, known: tuple[State, T | CheckpointError]) -> None:
        with self._keeping:
            self._known[name] = known
            self._known.move_to_end(name)
            if len(self._known) > self._number:
                self._known.popitem(last=False)


def _outcome(read: Callable[[], T]) -> T | CheckpointError:
    try:
        return read()
    except CheckpointError as error:
        return error


def state(directory: Path) -> State:
    """Identify the state of the files in a directory.

    Args:
        directory: The directory.

    Returns:
        A value that changes when a file of the directory does.

    Raises:
        OSError: The directory cannot be read.
    """
    return tuple((name, _identity(directory / name)) for name in sorted(os.listdir(directory)))


def _identity(path: Path) -> Identity | None:
    try:
        return identity(path)
    except OSError:  # a link that leads nowhere
        return None
