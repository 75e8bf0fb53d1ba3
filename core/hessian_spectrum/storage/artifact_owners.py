"""Whose the uploaded files are: an empty file for each owner and artifact."""

from contextlib import AbstractContextManager

from hessian_spectrum.storage.blob_store import BlobNotFoundError, BlobStore

NOBODY = "nobody"
"""Owner of what is uploaded where no key is needed."""


class ArtifactOwners:
    """Several may own the same file: it goes with the last of them.

    Args:
        blobs: Where the marks are kept, at `OWNER/ARTIFACT`.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def settled(self) -> AbstractContextManager[None]:
        """Nobody becomes or ceases to be an owner meanwhile, in whatever process."""
        return self._blobs.lock("lock")

    def add(self, owner: str, artifact_id: str) -> bool:
        """Make somebody an owner; False if they were before."""
        return self._blobs.put(f"{owner}/{artifact_id}", b"", use_reserve=True)

    def remove(self, owner: str, artifact_id: str) -> None:
        """Make somebody an owner no more."""
        self._blobs.delete(f"{owner}/{artifact_id}")

    def owns(self, owner: str, artifact_id: str) -> bool:
        """Whether the artifact is theirs, too."""
        try:
            self._blobs.stat(f"{owner}/{artifact_id}")
        except BlobNotFoundError:
            return False
        return True

    def owners(self, artifact_id: str) -> list[str]:
        """All whose it is."""
        return [owner for owner in self._blobs.folders() if self.owns(owner, artifact_id)]

    def artifacts(self, owner: str) -> set[str]:
        """Ids of all that is theirs."""
        return {info.name.rpartition("/")[2] for info in self._blobs.list(f"{owner}/")}
