"""Free space of the disk that files are written to."""

import errno
import os
from pathlib import Path

LEAST_FREE_BYTES = 256 * 2**20
"""With less, the disk counts as full. The rest is for Redis, which keeps accepted jobs, may write to the same disk, and
ends where there is no room."""


def require_room(place: Path | int, num_bytes: int) -> None:
    """Make sure that the disk of a path, or of an open file, takes so many bytes and still does not count as full.

    Raises:
        OSError: ENOSPC.
    """
    disk = os.statvfs(place)
    if disk.f_bavail * disk.f_frsize - num_bytes < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
