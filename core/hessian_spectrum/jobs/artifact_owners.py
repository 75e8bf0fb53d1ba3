"""Whose the uploaded files are: a directory for each owner, with an empty file for each artifact."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hessian_spectrum.jobs.disk import make_directory, present

NOBODY = "nobody"
"""Owner of what is uploaded where no key is needed."""


class ArtifactOwners:
    """Several may own the same file: it goes with the last of them.

    Args:
        directory: Made if missing; every process of a deployment sees the same one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Nobody becomes or ceases to be an owner meanwhile, in whatever process."""
        descriptor = os.open(present(self._directory) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(self, owner: str, artifact_id: str) -> bool:
        """Make somebody an owner; False if they were before."""
        mark = self._mark(owner, artifact_id)
        mark.parent.mkdir(exist_ok=True)
        is_new = not mark.exists()
        mark.touch(mode=0o640)
        return is_new

    def remove(self, owner: str, artifact_id: str) -> None:
        """Make somebody an owner no more."""
        self._mark(owner, artifact_id).unlink(missing_ok=True)

    def owns(self, owner: str, artifact_id: str) -> bool:
        """Whether the artifact is theirs, too."""
        return (present(self._directory) / owner / artifact_id).exists()

    def owners(self, artifact_id: str) -> list[str]:
        """All whose it is."""
        return [mark.parent.name for mark in self._directory.glob(f"*/{artifact_id}")]

    def artifacts(self, owner: str) -> set[str]:
        """Ids of all that is theirs."""
        return {mark.name for mark in (self._directory / owner).glob("*")}

    def _mark(self, owner: str, artifact_id: str) -> Path:
        return self._directory / owner / artifact_id
