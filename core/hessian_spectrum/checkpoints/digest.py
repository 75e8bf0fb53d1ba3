"""SHA-256 of files, taken once as long as they do not change."""

import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

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
