"""Files that appear only when they are complete, and outputs that are not regular files."""

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

from hessian_spectrum.client.requests import FilePath

_PERMISSIONS = 0o777
_DRAFT = ".spectrum-"
"""Prefix of temporary files; it is not combined with the target's name, which may already have maximal length."""

_DESCRIPTOR = re.compile(r"/(?:proc/self|proc/\d+|dev)/fd/(\d+)")


@contextmanager
def output_file(target: FilePath | BinaryIO) -> Iterator[BinaryIO]:
    """File to write to, which replaces the file at the path at the end; after an error nothing has changed there.

    A symbolic link is kept: the file that it points to is replaced. Anything that is not a regular file, such as a
    pipe, a device or standard output, is written to directly.

    Args:
        target: Path, or an open file.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written.
    """
    if not isinstance(target, str | os.PathLike):
        yield target
        target.flush()
        return
    path = _followed(Path(target))
    if _is_replaced(path):
        with _replacement(path) as file:
            yield file
    else:
        with _opened(path) as file:
            yield file


def check_writable(path: Path) -> None:
    """Check that `output_file` can write to a path, as far as that can be known in advance.

    Args:
        path: Path of the output.

    Raises:
        OSError: If it cannot.
        IsADirectoryError: If the path is a directory.
        PermissionError: If the path must not be written.
    """
    path = _followed(path)
    if _is_replaced(path):
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    elif path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    elif (descriptor := _descriptor(path)) is not None:
        os.write(descriptor, b"")  # fails if it is closed, or open for reading only
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _followed(path: Path) -> Path:
    """The path with symbolic links resolved, but without replacing a process's descriptor by its file."""
    for _ in range(40):  # Linux follows as many
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
    return os.fdopen(os.dup(descriptor), "wb")  # opening its path would write from the beginning


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
    """Copy the rights of the file that is replaced, or set the usual ones; temporary files are private."""
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
