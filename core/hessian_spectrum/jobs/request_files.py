"""Requests that are too large for Redis: a file for each job, until the job ends."""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

from hessian_spectrum.jobs.disk import require_room
from hessian_spectrum.jobs.results import sync_directory

LARGE_REQUEST_BYTES = 2**16
"""A longer request is a file; what is shorter is as well off in Redis, which writes it to a disk, too."""

ABANDONED_SECONDS = 6 * 3600.0
"""Far longer than it takes from writing a request to writing the record of its job."""

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_DRAFT = "draft-"


class RequestDamagedError(OSError):
    """The file of a request is missing, or does not have the content that the record of its job promises."""


class RequestFiles:
    """Requests by the id of their job; every process of a deployment sees the same ones.

    A file belongs to one job alone, so that nobody else needs it when the job has ended.

    Args:
        directory: Made when first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, job_id: str, text: str) -> None:
        """Keep a request; it is on disk when this returns.

        Raises:
            OSError: If the disk is full, for one; then nothing is left.
        """
        self._directory.mkdir(exist_ok=True)
        content = text.encode()
        descriptor, draft = tempfile.mkstemp(dir=self._directory, prefix=_DRAFT)
        try:
            with open(descriptor, "wb") as file:
                require_room(descriptor, len(content))
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.chmod(draft, 0o640)
            os.replace(draft, self._path(job_id))
        finally:
            Path(draft).unlink(missing_ok=True)
        sync_directory(self._directory)

    def holds(self, job_id: str) -> bool:
        """Whether the file is there."""
        return self._path(job_id).exists()

    def read(self, job_id: str, sha256: str) -> str:
        """The request of a job.

        Raises:
            RequestDamagedError: The file of the request is missing or damaged.
        """
        try:
            content = self._path(job_id).read_bytes()
        except FileNotFoundError:
            raise RequestDamagedError(f"the request of job {job_id} is missing") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RequestDamagedError(f"the request of job {job_id} is damaged")
        return content.decode()

    def discard(self, job_id: str) -> None:
        """Remove the file, if it can be done; nothing happens if there is none."""
        with contextlib.suppress(OSError):
            self._path(job_id).unlink(missing_ok=True)

    def job_ids(self, least_age_seconds: float) -> list[str]:
        """Jobs whose requests were written so long ago; what was left half written hours ago is removed."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    age_seconds = time.time() - path.stat().st_mtime
                    if path.name.startswith(_DRAFT):
                        if age_seconds > ABANDONED_SECONDS:
                            path.unlink()
                    elif age_seconds >= least_age_seconds and _JOB_ID.fullmatch(path.stem):
                        found.append(path.stem)
        return found

    def _path(self, job_id: str) -> Path:
        if not _JOB_ID.fullmatch(job_id):
            raise RequestDamagedError(f"{job_id!r} is no id of a job")
        return self._directory / f"{job_id}.json"
