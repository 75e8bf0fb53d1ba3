"""Files on the disk of this machine: drafts of blobs, and a blob store that is a directory, perhaps a mounted one."""

import errno
import fcntl
import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from hessian_spectrum.storage.blob_store import BlobInfo, BlobNotFoundError, sha256_of

LEAST_FREE_BYTES = 256 * 2**20
"""Free space in bytes below which a disk counts as full. It is reserved for Redis, which may write to the same disk and
stops when there is no room."""

_DRAFT = "draft-"
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
"""Modes, whatever the umask is: files of different API keys lie side by side, and only the service checks keys."""


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


class LocalDirectory:
    """A store whose blobs are files of a directory, under their names.

    A blob is written to a draft on the same disk, synced, and given its name in one step; the name is synced, too. So
    a reader sees all of it or nothing, and after a loss of power there is all of it or nothing. Only the user of the
    process may read what it writes, and list the directories that it makes.

    Args:
        root: The directory of the deployment. It is never made anew by writing: where it is missing, a volume is not
            mounted.
        prefix: Path below the root that all names of this store begin with.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root = root
        self.directory = root / prefix
        self._prefix = prefix

    def prepare(self) -> None:
        """Make the root and its parents at the start of a process; if that fails, later calls raise the error."""
        with suppress(OSError):
            self.root.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)

    @contextmanager
    def draft(self, *, report: Callable[[int], None] | None = None, use_reserve: bool = False) -> Iterator[Draft]:
        """Create a file in the directory of this store, which `Draft.commit` gives its name."""
        with self._draft_in(self.directory, report=report, use_reserve=use_reserve) as draft:
            yield draft

    @contextmanager
    def _draft_in(
        self, folder: Path, *, report: Callable[[int], None] | None = None, use_reserve: bool
    ) -> Iterator[Draft]:
        self._make_folder(folder)
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=_DRAFT)
        draft = Draft(descriptor, Path(path), self._publish, report=report, use_reserve=use_reserve)
        try:
            yield draft
        finally:
            draft.close()

    def put(
        self,
        name: str,
        content: bytes | memoryview,
        *,
        overwrite: bool = False,
        use_reserve: bool = False,
        durable: bool = True,
    ) -> bool:
        """Write a file beside its name, sync it and name it; what a killed process leaves goes with the directory."""
        with self._draft_in(self._path(name).parent, use_reserve=use_reserve) as draft:
            draft.file.write(content)
            draft.file.flush()
            return self._publish(draft, name, overwrite, durable=durable)

    def open(self, name: str) -> BinaryIO:
        """Open the file, which stays readable while it is open even if it is deleted."""
        with self._found(name):
            return self._path(name).open("rb")

    def read(self, name: str) -> bytes:
        """Read the file."""
        with self._found(name):
            return self._path(name).read_bytes()

    def stat(self, name: str) -> BlobInfo:
        """Read the file's inode, which shows also whether somebody wrote to the file directly."""
        with self._found(name):
            status = self._path(name).stat()
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError
            return _info(name, status)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """List the files of the directory that the prefix names, and of those below it."""
        folder = prefix.rpartition("/")[0]
        for place, _, names in os.walk(self.directory / folder, onerror=self._require_root):
            for file in sorted(names):
                path = Path(place, file)
                name = path.relative_to(self.directory).as_posix()
                if name.startswith(prefix) and not file.startswith(_DRAFT):
                    with suppress(FileNotFoundError):
                        yield _info(name, path.stat())

    def folders(self, prefix: str = "") -> Sequence[str]:
        """List the directories at the prefix."""
        try:
            return sorted(entry.name for entry in os.scandir(self.directory / prefix) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            self.require_present()
            return []

    def copy(self, source: str, target: str) -> None:
        """Link the file under a second name."""
        self.stat(source)
        self._make_folder(self._path(target).parent)
        with self._found(source):
            os.link(self._path(source), self._path(target))

    def delete(self, name: str) -> None:
        """Remove the file."""
        with suppress(BlobNotFoundError), self._found(name):
            self._path(name).unlink()

    def delete_all(self, prefix: str) -> None:
        """Remove the directory as far as that is possible."""
        shutil.rmtree(self.directory / prefix, ignore_errors=True)

    def local_file(self, name: str) -> Path:
        """Return the path of the file itself."""
        self.stat(name)
        return self._path(name)

    def mark_used(self, name: str) -> None:
        """Set the time of the file's last access; the time at which it was written stays."""
        with suppress(OSError):
            path = self._path(name)
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def unused(self, seconds: float) -> Iterator[BlobInfo]:
        """List the files whose last access was longer ago."""
        for info in self.list():
            with suppress(FileNotFoundError):
                if time.time() - self._path(info.name).stat().st_atime > seconds:
                    yield info

    def require_present(self) -> None:
        """Check that the root exists."""
        os.stat(self.root)

    def capacity(self) -> int:
        """Size of the disk that holds the root."""
        return shutil.disk_usage(self.root).total

    def remove_abandoned_drafts(self, seconds: float) -> None:
        """Remove abandoned drafts of this store and of its directories."""
        for pattern in (f"{_DRAFT}*", f"*/{_DRAFT}*"):
            for path in self.directory.glob(pattern):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > seconds:
                        path.unlink()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock a file of this name by the kernel, which releases the lock when the process ends."""
        self._make_folder(self._path(name).parent)
        descriptor = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def within(self, prefix: str) -> Self:
        """Return the store of the directory with this name below this one."""
        return type(self)(self.root, f"{self._prefix}/{prefix}".lstrip("/"))

    def _publish(self, draft: Draft, name: str, overwrite: bool, *, durable: bool = True) -> bool:
        if durable:
            os.fsync(draft.file.fileno())
        path = self._path(name)
        self._make_folder(path.parent)
        if overwrite:
            os.replace(draft.path, path)
        else:
            try:
                _link_or_move(draft.path, path)
            except FileExistsError:
                return False
        if durable:
            _sync(path.parent)
        return True

    def _make_folder(self, folder: Path) -> None:
        """Make a directory below the root, and those between; never the root.

        Raises:
            FileNotFoundError: The root is gone.
        """
        try:
            folder.mkdir(exist_ok=True, mode=_FOLDER_MODE)
        except FileNotFoundError:
            if folder == self.root:
                raise
            self.require_present()
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True, mode=_FOLDER_MODE)

    @contextmanager
    def _found(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self.require_present()
            raise BlobNotFoundError(name) from None

    def _require_root(self, error: OSError) -> None:
        """Pass over a missing directory below an existing root.

        Args:
            error: The error of listing a directory.

        Raises:
            OSError: The error is another one, or the root is missing.
        """
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error
        self.require_present()

    def _path(self, name: str) -> Path:
        return self.directory / name


def _info(name: str, status: os.stat_result) -> BlobInfo:
    version = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    return BlobInfo(name, status.st_size, status.st_mtime_ns, version)


def _link_or_move(draft: Path, path: Path) -> None:
    """Give a file a second name.

    File systems without links replace the other file where two write at once, and both have the same content.

    Args:
        draft: The file.
        path: Its second name.

    Raises:
        FileExistsError: There is a file of this name.
        OSError: The file cannot be linked or moved.
    """
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(draft, path)


def _sync(folder: Path) -> None:
    """Write the names of its files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
