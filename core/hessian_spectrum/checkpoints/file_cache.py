"""What was read of files, kept as long as they do not change: their SHA-256, and what a directory holds."""

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
    """Changes when the file does: device, inode, size, times of change in nanoseconds."""
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Digests:
    """Remembers the digests of files; may be asked from several threads."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Identity, str]] = {}
        self._lock = threading.Lock()

    def of(self, files: Iterable[tuple[str, Path]]) -> str:
        """Digest of what `sha256sum` prints of the files, given by name and path.

        Raises:
            OSError: A file cannot be read or written.
        """
        lines = (f"{self._of_file(path)}  {name}\n" for name, path in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def known(self) -> list[KnownDigest]:
        """Those that were taken, for another process."""
        return [(str(path), found, sha256) for path, (found, sha256) in list(self._known.items())]

    def learn(self, known: Iterable[KnownDigest]) -> None:
        """Believe what another process has taken, of files that do not change from then on."""
        self._known |= {Path(path): (tuple(found), sha256) for path, found, sha256 in known}

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
    """By name, the last `number` that were asked for; errors are kept, too. May be asked from several threads."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._known: OrderedDict[str, tuple[State, T | CheckpointError]] = OrderedDict()
        self._keeping = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def holds(self, name: str, directory: Path) -> bool:
        """Whether it was read as the files are now.

        Raises:
            OSError: A file cannot be read or written.
        """
        known = self._known.get(name)
        return known is not None and known[0] == state(directory)

    def put(self, name: str, of: State, value: T) -> None:
        """Keep what another process read of files in this state."""
        with self._locks[name]:
            self._keep(name, (of, value))

    def of(self, name: str, directory: Path, read: Callable[[], T]) -> T:
        """What `read` gives, or gave when the files of the directory were what they are now.

        Raises:
            CheckpointError: The same one again.
            OSError: A file cannot be read or written.
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
    """Changes when a file of the directory does.

    Raises:
        OSError: A file cannot be read or written.
    """
    return tuple((name, _identity(directory / name)) for name in sorted(os.listdir(directory)))


def _identity(path: Path) -> Identity | None:
    try:
        return identity(path)
    except OSError:  # a link that leads nowhere
        return None
