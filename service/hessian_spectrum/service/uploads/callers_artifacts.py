"""Uploaded files as one caller sees them: their own, of an admin everyone's."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArtifactError, StoredArray
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.doors.callers import Caller
from hessian_spectrum.service.doors.crowd import SHARE_OF_A_KEY
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.storage.array_files import Arrays
from hessian_spectrum.storage.artifact_owners import NOBODY, ArtifactOwners
from hessian_spectrum.storage.artifacts import ArtifactStore, UnknownArtifactError
from hessian_spectrum.storage.token_files import Blocks


class CallersArtifacts:
    """The artifact store for one caller: what is not theirs is not there.

    The same content is kept once, whoever sent it. Nobody learns from an answer that another has sent it, too.

    Args:
        max_bytes: of all that is kept, by default a quarter of the disk, of which one key's is a share at most.
        max_number: of one key's.
    """

    def __init__(
        self, store: ArtifactStore, owners: ArtifactOwners, caller: Caller, max_bytes: int | None, max_number: int
    ) -> None:
        self._store = store
        self._owners = owners
        self._owner = caller.owner or NOBODY
        self._sees_all = caller.is_admin
        self._max_bytes = max_bytes
        self._max_number = max_number

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """A file to write to and to read from, on the same disk, which is gone at the end."""
        with self._store.draft() as file:
            yield file

    def write_tokens(self, blocks: Blocks) -> tuple[AnyArtifact, bool]:
        """Store the tokens: (what they are, whether they are new to the caller).

        Raises:
            UnfitTokensError: The tokens do not fit.
            ProblemError: 507.
        """
        return self._owned(lambda: self._store.write_tokens(blocks))

    def write_arrays(self, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store the arrays: (what they are, whether they are new to the caller).

        Raises:
            UnfitArrayError: The array does not fit.
            ProblemError: 507.
        """
        return self._owned(lambda: self._store.write_arrays(arrays))

    def get(self, artifact_id: str) -> AnyArtifact:
        """What is known of an artifact.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        self._check(artifact_id)
        return self._store.get(artifact_id)

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """What the arrays are; this makes it an `ArtifactCatalog`.

        Raises:
            ArtifactError: If there is no such artifact, or it holds no arrays.
        """
        try:
            self._check(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the arrays first") from None
        return self._store.arrays(artifact_id)

    def page(self, size: int, after: str | None) -> tuple[list[AnyArtifact], str | None]:
        """Up to `size` artifacts, newest first, and the place after which the next page begins."""
        return self._store.page(size, after, None if self._sees_all else self._owners.artifacts(self._owner))

    def delete(self, artifact_id: str) -> None:
        """Let go of an artifact, of an admin's for all; with the last owner the file goes.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        with self._owners.settled():
            self._check(artifact_id)
            for owner in self._owners.owners(artifact_id) if self._sees_all else [self._owner]:
                self._owners.remove(owner, artifact_id)
            if not self._owners.owners(artifact_id):
                self._store.delete(artifact_id)

    def _owned(self, write: Callable[[], tuple[AnyArtifact, bool]]) -> tuple[AnyArtifact, bool]:
        while True:
            with suppress(UnknownArtifactError):  # where its last owner let go of it a moment ago
                artifact, _ = write()
                with self._owners.settled():
                    self._store.get(artifact.id)
                    self._require_room(artifact.id)
                    return artifact, self._owners.add(self._owner, artifact.id)

    def _require_room(self, artifact_id: str) -> None:
        """Let go of what is new and finds no room.

        Raises:
            ProblemError: 507.
        """
        if self._owners.owns(self._owner, artifact_id):
            return
        own = {*self._owners.artifacts(self._owner), artifact_id}
        sizes = self._store.sizes()
        own_bytes = sum(sizes.get(each, 0) for each in own)
        all_bytes = self._all_bytes()
        most = all_bytes if self._owner == NOBODY else SHARE_OF_A_KEY * all_bytes
        if len(own) <= self._max_number and own_bytes <= most and sum(sizes.values()) <= all_bytes:
            return
        if not self._owners.owners(artifact_id):
            self._store.delete(artifact_id)
        raise _too_many(self._max_number) if len(own) > self._max_number else _no_room(own_bytes > most)

    def _all_bytes(self) -> float:
        if self._max_bytes is not None:
            return self._max_bytes
        capacity = self._store.blobs.capacity()
        return math.inf if capacity is None else capacity // 4

    def _check(self, artifact_id: str) -> None:
        if not self._sees_all and not self._owners.owns(self._owner, artifact_id):
            raise UnknownArtifactError(artifact_id)


def _too_many(max_number: int) -> ProblemError:
    detail = f"A key keeps at most {max_number:,}: delete some that no job needs any more."
    title = "Too many uploaded files"
    return ProblemError(Problem(type="/problems/too-many-uploads", title=title, status=507, detail=detail))


def _no_room(is_own: bool) -> ProblemError:
    detail = "Yours are too many: delete some of them." if is_own else "An admin can delete some of them."
    title = "There is no more room for uploaded files"
    return ProblemError(Problem(type="/problems/uploads-full", title=title, status=507, detail=detail))
