"""Room on the disk of the results."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

LEAST_FREE_BYTES = 256 * 2**20
"""With less the disk counts as full. The rest is for what keeps accepted jobs: Redis, which may write to the same disk,
ends where there is no room."""


def require_room(place: Path | int, num_bytes: int) -> None:
    """Make sure that the disk of a path, or of an open file, takes so many bytes and still does not count as full.

    Raises:
        OSError: ENOSPC.
    """
    disk = os.statvfs(place)
    if disk.f_bavail * disk.f_frsize - num_bytes < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def share_of_disk(place: Path, divisor: int) -> int:
    """Bytes of the disk that holds a path, free or not, by the divisor.

    Raises:
        OSError: If the path is gone.
    """
    return shutil.disk_usage(place).total // divisor


def make_directory(directory: Path) -> None:
    """Make a directory, and all above it, at a start; where that fails, whoever uses it later is told why."""
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)


def present(directory: Path) -> Path:
    """The directory, which is made anew where the one above it is there: that may be a volume that was empty.

    Raises:
        OSError: If the one above is gone, as is a volume that is not mounted, or cannot be written.
    """
    directory.mkdir(exist_ok=True)
    return directory
