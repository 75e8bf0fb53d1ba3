"""Where answers are written: files that are there only when they are whole, and what is no file."""

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

_PERMISSIONS = 0o777
_DRAFT = ".spectrum-"
"""No part of the name that is wanted, which may be as long as names can be."""

_DESCRIPTOR = re.compile(r"/(?:proc/self|proc/\d+|dev)/fd/(\d+)")


@contextmanager
def output_file(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    """What to write to: at the end it replaces the file at the path, and after an error nothing has changed there.

    A symbolic link stays one: the file that it leads to is replaced. What is no regular file, such as a pipe, a device
    or standard output, is written into.

    Raises:
        OSError: It cannot be written.
    """
    if not isinstance(target, Path):
        yield target
        target.flush()
        return
    path = _followed(target)
    if _is_replaced(path):
        with _replacement(path) as file:
            yield file
    else:
        with _opened(path) as file:
            yield file


def check_writable(path: Path) -> None:
    """Make sure that `output_file` can write there, as well as that can be known before.

    Raises:
        OSError: It cannot.
    """
    path = _followed(path)
    if _is_replaced(path):
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    elif path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    elif (descriptor := _descriptor(path)) is not None:
        os.write(descriptor, b"")  # which fails where it is closed, or open for reading alone
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _followed(path: Path) -> Path:
    """The path without symbolic links, down to a descriptor of a process, which is more than the path of its file."""
    for _ in range(40):  # as many as Linux follows
        path = Path(os.path.realpath(path.parent), path.name)
        if _DESCRIPTOR.fullmatch(str(path)) or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _is_replaced(path: Path) -> bool:
    if _DESCRIPTOR.fullmatch(str(path)):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


def _descriptor(path: Path) -> int | None:
    """The number of a descriptor of this process."""
    is_own = path.parent == Path(os.path.realpath("/proc/self/fd"))
    return int(path.name) if is_own and path.name.isdecimal() else None


def _opened(path: Path) -> BinaryIO:
    descriptor = _descriptor(path)
    if descriptor is None:
        return path.open("wb")
    return os.fdopen(os.dup(descriptor), "wb")  # opened by its path, a file would be written from its beginning


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_DRAFT, delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            _take_over_rights(path, file.name)
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def _take_over_rights(path: Path, replacement: str) -> None:
    """Those of the file that is replaced, or the usual ones: temporary files are private."""
    try:
        status = path.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(replacement, 0o666 & ~mask)
        return
    with contextlib.suppress(PermissionError):  # only root gives files away
        os.chown(replacement, status.st_uid, status.st_gid)
    os.chmod(replacement, status.st_mode & _PERMISSIONS)
