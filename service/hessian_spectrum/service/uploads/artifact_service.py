"""Uploaded files as one principal sees them: their own; an admin sees all."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArtifactError, ProgramArtifact, StoredArray
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.programs.program import Program
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.config import MAX_SHARE_PER_KEY
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.storage.artifact_files import Arrays, Blocks
from hessian_spectrum.storage.artifacts import NOBODY, ArtifactOwners, ArtifactStore, UnknownArtifactError


@dataclass(frozen=True, kw_only=True)
class ArtifactQuota:
    """Limits on the size and number of uploaded files."""

    max_bytes: int | None
    """Largest total size in bytes; one key may use the share `MAX_SHARE_PER_KEY`. None: a quarter of the disk."""
    max_number: int
    """Largest number of files of one key."""


@dataclass(frozen=True, kw_only=True)
class ArtifactService:
    """The artifact store for one principal, to whom the files of others do not exist.

    Equal content is stored once; no response reveals that another principal has sent it before.

    Attributes:
        store: Uploaded files.
        owners: Owners of the uploaded files.
        principal: Whom the service acts for.
        quota: Limits on the files that are kept.
    """

    store: ArtifactStore
    owners: ArtifactOwners
    principal: Principal
    quota: ArtifactQuota

    @property
    def _owner(self) -> str:
        return self.principal.owner or NOBODY

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """A temporary file on the disk of the artifacts, which is removed at the end of the context."""
        with self.store.draft() as file:
            yield file

    def write_tokens(self, blocks: Blocks) -> tuple[AnyArtifact, bool]:
        """Store tokens.

        Returns:
            The artifact, and whether it is new to the principal.

        Raises:
            UnfitTokensError: The tokens do not fit.
            ProblemError: 507 if the quota is exhausted.
        """
        return self._owned(lambda: self.store.write_tokens(blocks))

    def write_arrays(self, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store arrays.

        Returns:
            The artifact, and whether it is new to the principal.

        Raises:
            UnfitArrayError: An array does not fit.
            ProblemError: 507 if the quota is exhausted.
        """
        return self._owned(lambda: self.store.write_arrays(arrays))

    def write_program(self, program: Program, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store a program with its arrays.

        Returns:
            The artifact, and whether it is new to the principal.

        Raises:
            ProblemError: 507 if the quota is exhausted.
        """
        return self._owned(lambda: self.store.write_program(program, arrays))

    def get(self, artifact_id: str) -> AnyArtifact:
        """Return the description of an artifact.

        Returns:
            The number of tokens and the largest one, or shape and type of each array.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        self._check(artifact_id)
        return self.store.get(artifact_id)

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """Describe the arrays of an artifact; this method makes the service an `ArtifactCatalog`.

        Returns:
            The arrays by name.

        Raises:
            ArtifactError: There is no such artifact, or it does not hold arrays.
        """
        try:
            self._check(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the arrays first") from None
        return self.store.arrays(artifact_id)

    def program(self, artifact_id: str) -> ProgramArtifact:
        """Describe a program; this method makes the service an `ArtifactCatalog`.

        Returns:
            Its parameters, inputs and output.

        Raises:
            ArtifactError: There is no such artifact, or it is not a program.
        """
        try:
            self._check(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the program first") from None
        return self.store.program(artifact_id)

    def page(self, size: int, after: str | None) -> tuple[list[AnyArtifact], str | None]:
        """Return up to `size` artifacts, newest first, and the cursor of the next page, None at the end."""
        return self.store.page(size, after, None if self.principal.is_admin else self.owners.artifacts(self._owner))

    def delete(self, artifact_id: str) -> None:
        """Remove the principal, an admin all owners, from an artifact; without owners its file is deleted.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        with self.owners.settled():
            self._check(artifact_id)
            for owner in self.owners.owners(artifact_id) if self.principal.is_admin else [self._owner]:
                self.owners.remove(owner, artifact_id)
            if not self.owners.owners(artifact_id):
                self.store.delete(artifact_id)

    def _owned(self, write: Callable[[], tuple[AnyArtifact, bool]]) -> tuple[AnyArtifact, bool]:
        while True:
            with suppress(UnknownArtifactError):  # its last owner deleted it a moment ago
                artifact, _ = write()
                with self.owners.settled():
                    self.store.get(artifact.id)
                    self._require_quota(artifact.id)
                    return artifact, self.owners.add(self._owner, artifact.id)

    def _require_quota(self, artifact_id: str) -> None:
        """Delete a new artifact that exceeds the quota.

        Raises:
            ProblemError: 507 if the quota is exhausted.
        """
        if self.owners.owns(self._owner, artifact_id):
            return
        own = {*self.owners.artifacts(self._owner), artifact_id}
        sizes = self.store.sizes()
        own_bytes = sum(sizes.get(each, 0) for each in own)
        all_bytes = self._all_bytes()
        most = all_bytes if self._owner == NOBODY else MAX_SHARE_PER_KEY * all_bytes
        if len(own) <= self.quota.max_number and own_bytes <= most and sum(sizes.values()) <= all_bytes:
            return
        if not self.owners.owners(artifact_id):
            self.store.delete(artifact_id)
        raise _too_many(self.quota.max_number) if len(own) > self.quota.max_number else _no_room(own_bytes > most)

    def _all_bytes(self) -> float:
        if self.quota.max_bytes is not None:
            return self.quota.max_bytes
        capacity = self.store.blobs.capacity()
        return math.inf if capacity is None else capacity // 4

    def _check(self, artifact_id: str) -> None:
        if not self.principal.is_admin and not self.owners.owns(self._owner, artifact_id):
            raise UnknownArtifactError(artifact_id)


def _too_many(max_number: int) -> ProblemError:
    detail = f"An API key may keep {max_number:,} files: delete some that no job needs."
    title = "Too many uploaded files"
    return ProblemError(Problem(type="/problems/too-many-uploads", title=title, status=507, detail=detail))


def _no_room(is_own: bool) -> ProblemError:
    detail = (
        "Your files take too much space: delete some." if is_own else "An admin can delete files that are not needed."
    )
    title = "No space left for uploaded files"
    return ProblemError(Problem(type="/problems/uploads-full", title=title, status=507, detail=detail))
