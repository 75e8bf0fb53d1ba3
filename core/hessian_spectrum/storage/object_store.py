"""A blob store in a bucket of an S3-compatible object store, for machines that share no disk."""

import errno
import hashlib
import io
import logging
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from s3fs import S3FileSystem

from hessian_spectrum.storage.blob_store import BlobInfo, BlobNotFoundError, StorageUnavailableError
from hessian_spectrum.storage.local_directory import Draft, require_room

_DRAFT = "draft-"
_CACHE = "object-store-cache"
_USED = "last-used/"
"""Prefix of empty blobs, each written when the blob of its name was last used."""

_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 2
"""Parts of a large blob that are uploaded at once; their number times their size is held in memory."""

_BUFFER_BYTES = 2**18
_PAGE = 1000
"""Largest number of objects that one request may list or delete."""

_CACHE_SECONDS = 86400.0
"""Time for which a local copy is kept after its last use."""

_SECONDS_BETWEEN_MARKS = 3600.0
_MOST_MARKS = 10_000
_BUFFERED_CONNECTIONS = 32

_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")
_FULL = ("QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "InsufficientStorage")

for _name in ("aiobotocore", "botocore"):  # which say at each start where they found credentials
    logging.getLogger(_name).setLevel(logging.WARNING)

Lock = Callable[[str], AbstractContextManager[None]]


class ObjectStore:
    """A store whose blobs are objects of a bucket. Several machines need no clock and no disk in common.

    A blob is put only where there is none (`If-None-Match: *`), which the object store has to support; a large one is
    uploaded in parts, and appears when the last one is there. Credentials, region and endpoint come from the variables
    and files of every AWS client: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.

    Args:
        url: s3://BUCKET/PREFIX.
        scratch: A directory of this machine for drafts and for copies of what is mapped into memory.
        lock: How to exclude others, as an object store has no locks; without it `lock` raises.
    """

    def __init__(self, url: str, scratch: Path, lock: Lock | None = None) -> None:
        parts = urlsplit(url)
        self._url, self._scratch, self._lock = url, scratch, lock
        self._bucket = parts.netloc
        self._root = f"{parts.path.strip('/')}/".lstrip("/")
        self._prefix = self._root
        self._marks = _Marks()

    @contextmanager
    def draft(self, *, report: Callable[[int], None] | None = None, use_reserve: bool = False) -> Iterator[Draft]:
        """Create a file on this machine, which `Draft.commit` uploads."""
        descriptor, path = tempfile.mkstemp(dir=self._scratch, prefix=_DRAFT)
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
        """Upload the bytes in one request; the disk of the object store has no reserve for Redis."""
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        return self._is_new(lambda: self._call("put_object", Key=self._prefix + name, Body=bytes(content), **condition))

    def open(self, name: str) -> BinaryIO:
        """Open the object as a file whose ranges are requested as they are read."""
        info = self.stat(name)
        return cast("BinaryIO", io.BufferedReader(_RangeReader(self, info), _BUFFER_BYTES))

    def read(self, name: str) -> bytes:
        """Download the object in one request."""
        return self._range(name)

    def stat(self, name: str) -> BlobInfo:
        """Read the headers of the object."""
        with self._found(name):
            headers = self._call("head_object", Key=self._prefix + name)
        return _info(name, headers["ContentLength"], modified=headers["LastModified"], version=headers["ETag"])

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """List objects, a page at a time."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(self._prefix)
                if not entry["Key"].startswith(self._root + _USED):
                    yield _info(name, entry["Size"], modified=entry["LastModified"], version=entry["ETag"])

    def folders(self, prefix: str = "") -> Sequence[str]:
        """List the common prefixes of objects."""
        pages = self._pages(prefix, Delimiter="/")
        prefixes = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]
        start = len(self._prefix + prefix)
        return [folder[start:-1] for folder in prefixes if folder != self._root + _USED]

    def copy(self, source: str, target: str) -> None:
        """Copy the object inside the object store."""
        origin = {"Bucket": self._bucket, "Key": self._prefix + source}
        with self._found(source):
            self._call("copy_object", Key=self._prefix + target, CopySource=origin)

    def delete(self, name: str) -> None:
        """Delete the object and the mark of its last use."""
        self._delete([self._prefix + name, self._mark(name)])

    def delete_all(self, prefix: str) -> None:
        """Delete objects, many in one request."""
        keys = [self._prefix + info.name for info in self.list(prefix)]
        for start in range(0, len(keys), _PAGE):
            self._delete(keys[start : start + _PAGE])

    def local_file(self, name: str) -> Path:
        """Return a copy on this machine, made at the first use and deleted a day after the last one."""
        info = self.stat(name)
        identity = hashlib.sha256(f"{self._url} {self._prefix}{name} {info.version}".encode()).hexdigest()
        path = self._scratch / _CACHE / identity
        try:
            os.utime(path)
        except FileNotFoundError:
            self._remove_old_copies()
            self._download(info, path)
        return path

    def mark_used(self, name: str) -> None:
        """Write an empty object as a mark, once an hour at most."""
        if self._marks.is_due(self._mark(name)):
            with suppress(OSError):
                self._call("put_object", Key=self._mark(name), Body=b"")

    def unused(self, seconds: float) -> Iterator[BlobInfo]:
        """List objects by the time of their marks, which are requested only for objects that are old enough."""
        for info in self.list():
            if time.time() - info.modified_at > seconds:
                try:
                    mark = self._call("head_object", Key=self._mark(info.name))
                except FileNotFoundError:
                    yield info
                else:
                    if time.time() - _seconds(mark["LastModified"]) > seconds:
                        yield info

    def require_present(self) -> None:
        """Check that the bucket exists."""
        try:
            self._call("list_objects_v2", Prefix=self._root, MaxKeys=1)
        except FileNotFoundError:
            raise StorageUnavailableError(errno.EREMOTEIO, f"there is no bucket {self._bucket}") from None

    def capacity(self) -> None:
        """An object store has no limit to speak of."""

    def remove_abandoned_drafts(self, seconds: float) -> None:
        """Remove abandoned drafts of this machine; parts of unfinished uploads are left to a rule of the bucket."""
        for path in [*self._scratch.glob(f"{_DRAFT}*"), *(self._scratch / _CACHE).glob(f"{_DRAFT}*")]:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > seconds:
                    path.unlink()

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Take the lock that this store was made with."""
        if self._lock is None:
            raise RuntimeError("this store was opened without a way to lock")
        return self._lock(name)

    def within(self, prefix: str) -> Self:
        """Return a store further down in the same bucket."""
        part = type(self)(self._url, self._scratch, self._lock)
        part._prefix = f"{self._prefix}{prefix}/"
        part._marks = self._marks
        return part

    def _publish(self, draft: Draft, name: str, overwrite: bool) -> bool:
        if draft.num_bytes <= _PART_BYTES:
            return self.put(name, draft.path.read_bytes(), overwrite=overwrite)
        target, mode = f"{self._bucket}/{self._prefix}{name}", "overwrite" if overwrite else "create"
        options = {"mode": mode, "chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        return self._is_new(
            lambda: self._translated(lambda: _CLIENT.get().put_file(str(draft.path), target, **options))
        )

    def _download(self, info: BlobInfo, path: Path) -> None:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        require_room(path.parent, info.num_bytes)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=_DRAFT)
        os.close(descriptor)
        try:
            with self._found(info.name):
                source = f"{self._bucket}/{self._prefix}{info.name}"
                self._translated(lambda: _CLIENT.get().get_file(source, draft))
            if os.path.getsize(draft) != info.num_bytes:
                raise StorageUnavailableError(errno.EREMOTEIO, f"{info.name} came in part only")
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)

    def _remove_old_copies(self) -> None:
        for path in (self._scratch / _CACHE).glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _CACHE_SECONDS:
                    path.unlink()

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        options |= {"Prefix": self._prefix + prefix, "MaxKeys": _PAGE}
        while True:
            try:
                page = self._call("list_objects_v2", **options)
            except FileNotFoundError:
                self.require_present()
                raise
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _delete(self, keys: Sequence[str]) -> None:
        if keys:
            reply = self._call("delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
            if errors := [error for error in reply.get("Errors", ()) if error.get("Code") != "NoSuchKey"]:
                raise StorageUnavailableError(errno.EREMOTEIO, f"the object store deletes nothing: {errors[0]}")

    def _range(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        with self._found(name):
            source = f"{self._bucket}/{self._prefix}{name}"
            return bytes(self._translated(lambda: _CLIENT.get().cat_file(source, start=start, end=end)))

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return dict(self._translated(lambda: _CLIENT.get().call_s3(method, Bucket=self._bucket, **arguments)))

    def _translated(self, request: Callable[[], Any]) -> Any:
        """Make a request, and translate its errors.

        Args:
            request: Makes the request.

        Returns:
            What the request returns.

        Raises:
            FileNotFoundError: There is no such object, or no such bucket.
            FileExistsError: There is such an object already.
            StorageUnavailableError: Any other error.
        """
        try:
            return request()
        except FileNotFoundError:
            raise
        except (OSError, BotoCoreError, ClientError) as error:
            code = _code(error)
            if code in _EXISTS:
                raise FileExistsError(code) from None
            number = errno.ENOSPC if code in _FULL else errno.EREMOTEIO
            raise StorageUnavailableError(number, f"the object store cannot be used: {error}"[:500]) from error

    def _is_new(self, request: Callable[[], object]) -> bool:
        try:
            request()
        except FileExistsError:
            return False
        except FileNotFoundError:
            self.require_present()
            raise
        return True

    @contextmanager
    def _found(self, name: str) -> Iterator[None]:
        try:
            yield
        except BlobNotFoundError:
            raise
        except FileNotFoundError:
            self.require_present()
            raise BlobNotFoundError(name) from None

    def _mark(self, name: str) -> str:
        return f"{self._root}{_USED}{self._prefix.removeprefix(self._root)}{name}"


class _Client:
    """The connections of this process; a process that is forked makes its own."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._files: Any = None
        self._inherited: list[Any] = []
        """File systems of the processes that this one was forked from. They are never closed: their sockets are watched
        by the parent's event loop, through a kernel object that both processes share."""
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> Any:
        """A file system of s3fs, whose methods may be called from any thread."""
        with self._making:
            if self._files is None:
                self._files = S3FileSystem(
                    skip_instance_cache=True,
                    use_listings_cache=False,
                    config_kwargs={
                        "connect_timeout": 5,
                        "read_timeout": 30,
                        "max_pool_connections": _BUFFERED_CONNECTIONS,
                        "retries": {"max_attempts": 3, "mode": "standard"},
                    },
                )
            return self._files

    def _forget(self) -> None:
        self._making = threading.Lock()
        if self._files is not None:
            self._inherited.append(self._files)
        self._files = None


_CLIENT = _Client()


class _Marks:
    """The marks that this process has written in the last hour."""

    def __init__(self) -> None:
        self._written: OrderedDict[str, float] = OrderedDict()
        self._looking = threading.Lock()

    def is_due(self, mark: str) -> bool:
        """Return whether a mark has to be written now; it counts as written then."""
        now = time.monotonic()
        with self._looking:
            if now - self._written.get(mark, -_SECONDS_BETWEEN_MARKS) < _SECONDS_BETWEEN_MARKS:
                return False
            self._written[mark] = now
            self._written.move_to_end(mark)
            if len(self._written) > _MOST_MARKS:
                self._written.popitem(last=False)
            return True


class _RangeReader(io.RawIOBase):
    """An object as a file."""

    def __init__(self, store: ObjectStore, info: BlobInfo) -> None:
        self._store, self._info, self._position = store, info, 0
        self.name = info.name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._info.num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        content = bytearray(max(0, self._info.num_bytes - self._position))
        return bytes(memoryview(content)[: self.readinto(content)])

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._position + len(buffer), self._info.num_bytes)
        if self._position >= end:
            return 0
        content = self._store._range(self._info.name, self._position, end)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _code(error: Exception) -> str:
    """The error code in the reply of the object store; empty if there was no reply."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _info(name: str, num_bytes: int, *, modified: datetime, version: str) -> BlobInfo:
    return BlobInfo(name, num_bytes, round(1e6 * _seconds(modified)) * 1000, version)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
