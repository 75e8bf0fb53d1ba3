"""The artifact store: uploaded files, immutable and named by the SHA-256 of their content, and who owns them."""

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import BinaryIO

from hessian_spectrum.api_schemas.artifacts import (
    AnyArtifact,
    ArrayArtifact,
    ArtifactError,
    ProgramArtifact,
    StoredArray,
    TokenArtifact,
)
from hessian_spectrum.programs.program import Program
from hessian_spectrum.storage.array_rows import ArrayRows, OpenFile, array_rows
from hessian_spectrum.storage.artifact_files import (
    Arrays,
    Blocks,
    Tokens,
    counted,
    described,
    mapped,
    npy_pieces,
    num_tokens_of,
    read_header,
    safetensors_pieces,
)
from hessian_spectrum.storage.blob_store import DIGEST, BlobInfo, BlobNotFoundError, BlobStore
from hessian_spectrum.storage.program_files import program_pieces, read_description

_NAME = re.compile(r"[0-9a-f]{2}/[^/]+")
_ARRAYS = ".safetensors"
_PROGRAM = ".program"
_ABANDONED_SECONDS = 3600.0
"""Seconds without a write after which a draft counts as abandoned, far longer than an upload may take."""

NOBODY = "nobody"
"""Owner of files that are uploaded to a server that requires no key."""


class UnknownArtifactError(Exception):
    """There is no artifact of this id, or it was deleted."""


class ArtifactDamagedError(Exception):
    """The file of an artifact does not have the content that its name promises."""


class ArtifactStore:
    """Uploaded files: tokens as `ID.LARGEST_TOKEN.npy`, arrays as `ID.safetensors`, programs as `ID.program`.

    Each is stored or removed in one step.

    Args:
        blobs: Where they are stored, at `ID/` and the name, where ID are the first two digits.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """A local file to write and to read, which is deleted at the end of the block."""
        with self.blobs.draft() as draft:
            yield draft.file

    def remove_abandoned_drafts(self) -> None:
        """Remove the drafts of processes that were killed."""
        self.blobs.remove_abandoned_drafts(_ABANDONED_SECONDS)

    def write_tokens(self, blocks: Blocks) -> tuple[AnyArtifact, bool]:
        """Store tokens.

        Args:
            blocks: Reads the tokens from their beginning; it is called twice.

        Returns:
            The artifact, and whether it is new here.

        Raises:
            UnfitTokensError: There are none, or one is not in 0 .. 2^31 - 1.
        """
        num_tokens, largest = counted(blocks())
        return self._write(npy_pieces(num_tokens, largest, blocks()), f".{largest}.npy")

    def write_arrays(self, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store arrays, which are read twice.

        Args:
            arrays: The arrays by name.

        Returns:
            The artifact, and whether it is new here.

        Raises:
            UnfitArrayError: A number is NaN or infinite.
        """
        return self._write(safetensors_pieces(arrays, described(arrays)), _ARRAYS)

    def write_program(self, program: Program, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store a program.

        Args:
            program: The graph.
            arrays: Arrays of its parameters and constants, by name.

        Returns:
            The artifact, and whether it is new here.
        """
        return self._write(program_pieces(program, arrays), _PROGRAM)

    def get(self, artifact_id: str) -> AnyArtifact:
        """Describe an artifact.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            The artifact.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        return self._artifact(self._used(artifact_id))

    def page(
        self, size: int, after: str | None, ids: Collection[str] | None = None
    ) -> tuple[list[AnyArtifact], str | None]:
        """List artifacts, newest first.

        Args:
            size: Number of artifacts at most.
            after: Position after which the page begins: 32 hexadecimal digits, the microsecond of creation, then the
                id's first 64 bits. None: the first page.
            ids: Ids of the artifacts to list; None: all.

        Returns:
            The artifacts, and the position after which the next page begins; None: this is the last page.
        """
        places = {_place(info): info for info in self._files() if ids is None or _id(info) in ids}
        following = sorted((place for place in places if after is None or place < after), reverse=True)
        artifacts = []
        for place in following[:size]:  # headers are read of these alone
            with suppress(UnknownArtifactError):
                artifacts.append(self._artifact(places[place]))
        return artifacts, following[size - 1] if len(following) > size else None

    def tokens(self, artifact_id: str) -> Tokens:
        """Map the tokens of an artifact into memory.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            The tokens (num_tokens,), which are read from the disk when they are used.

        Raises:
            UnknownArtifactError: There is no such artifact, or it holds no tokens.
        """
        info = self._used(artifact_id)
        if info.name.endswith((_ARRAYS, _PROGRAM)):
            raise UnknownArtifactError(artifact_id)
        with _there(artifact_id):
            return mapped(self.blobs.local_file(info.name))

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """Describe the arrays of an artifact; this makes the store an `ArtifactCatalog`.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            The description of each array by name.

        Raises:
            ArtifactError: There is no such artifact, or it holds no arrays.
        """
        try:
            artifact = self.get(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the arrays first") from None
        if isinstance(artifact, TokenArtifact):
            raise ArtifactError(
                "this artifact holds tokens, which take num_sequences and sequence_length; a .npy array of data is "
                "uploaded with its name, as in ?name=y"
            )
        if not isinstance(artifact, ArrayArtifact):
            raise ArtifactError("this artifact is a program, not arrays")
        return artifact.arrays

    def program(self, artifact_id: str) -> ProgramArtifact:
        """Describe a program; this makes the store an `ArtifactCatalog`.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            Its parameters, inputs and output.

        Raises:
            ArtifactError: There is no such artifact, or it is no program.
        """
        try:
            artifact = self.get(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the program first") from None
        if not isinstance(artifact, ProgramArtifact):
            raise ArtifactError("this artifact is not a program: upload what torch.export.save wrote")
        return artifact

    def safetensors(self, artifact_id: str) -> bytes:
        """Read the whole file of an artifact that holds arrays or a program.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            The content of the file.

        Raises:
            UnknownArtifactError: There is no such artifact.
            ArtifactDamagedError: Its file is damaged.
        """
        with _there(artifact_id):
            content = self.blobs.read(self._used(artifact_id).name)
        if hashlib.sha256(content).hexdigest() != artifact_id:
            raise ArtifactDamagedError(artifact_id)
        return content

    def rows(self, artifact_id: str) -> dict[str, ArrayRows]:
        """Open the arrays of an artifact, whose rows are read from disk when they are used.

        Args:
            artifact_id: Id of the artifact.

        Returns:
            The rows of each array by name.

        Raises:
            UnknownArtifactError: There is no such artifact, or it holds no arrays.
            ArtifactDamagedError: Its file is damaged.
        """
        info = self._used(artifact_id)
        if not info.name.endswith(_ARRAYS):
            raise UnknownArtifactError(artifact_id)
        with _there(artifact_id):
            file = OpenFile(self.blobs.local_file(info.name))
        if file.sha256() != artifact_id:
            raise ArtifactDamagedError(artifact_id)
        return array_rows(file)

    def sizes(self) -> dict[str, int]:
        """Bytes of each artifact, by id."""
        return {_id(info): info.num_bytes for info in self._files()}

    def remove_unused(self, seconds: float) -> list[str]:
        """Remove the artifacts that nobody has named by their id within so many seconds; returns their ids."""
        removed = []
        for info in list(self.blobs.unused(seconds)):
            if _NAME.fullmatch(info.name):
                self.blobs.delete(info.name)
                removed.append(_id(info))
        return removed

    def delete(self, artifact_id: str) -> None:
        """Remove the file; a job that has it open keeps it.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        self.blobs.delete(self._used(artifact_id).name)

    def _write(self, pieces: Iterator[bytes], ending: str) -> tuple[AnyArtifact, bool]:
        with self.blobs.draft() as draft:
            draft.write(pieces)
            digest = draft.sha256()
            with suppress(UnknownArtifactError):
                return self.get(digest), False
            name = f"{digest[:2]}/{digest}{ending}"
            is_new = draft.commit(name)
        with _there(digest):
            return self._artifact(self.blobs.stat(name)), is_new

    def _files(self) -> Iterator[BlobInfo]:
        return (info for info in self.blobs.list() if _NAME.fullmatch(info.name))

    def _used(self, artifact_id: str) -> BlobInfo:
        """Information about a file, which counts as used now."""
        if DIGEST.fullmatch(artifact_id):
            for info in self.blobs.list(f"{artifact_id[:2]}/{artifact_id}."):
                self.blobs.mark_used(info.name)
                return info
        raise UnknownArtifactError(artifact_id)

    def _artifact(self, info: BlobInfo) -> AnyArtifact:
        artifact_id, ending = _id(info), info.name.partition(".")[2]
        known = {
            "id": artifact_id,
            "num_bytes": info.num_bytes,
            "created_at": datetime.fromtimestamp(info.modified_ns // 1000 / 1e6, UTC),
        }
        with _there(artifact_id), self.blobs.open(info.name) as file:
            if info.name.endswith(_ARRAYS):
                return ArrayArtifact.model_validate({**known, "kind": "arrays", "arrays": read_header(file)})
            if info.name.endswith(_PROGRAM):
                return ProgramArtifact.model_validate({**known, "kind": "program", **read_description(file)})
            tokens = {"num_tokens": num_tokens_of(file), "largest_token": int(ending.split(".")[0])}
            return TokenArtifact.model_validate({**known, "kind": "tokens", **tokens})


@contextmanager
def _there(artifact_id: str) -> Iterator[None]:
    """Raise UnknownArtifactError in place of BlobNotFoundError.

    Args:
        artifact_id: Id of the artifact.

    Yields:
        Nothing.

    Raises:
        UnknownArtifactError: The block raises BlobNotFoundError.
    """
    try:
        yield
    except BlobNotFoundError:
        raise UnknownArtifactError(artifact_id) from None


def _id(info: BlobInfo) -> str:
    return info.name.rpartition("/")[2].partition(".")[0]


def _place(info: BlobInfo) -> str:
    return f"{info.modified_ns // 1000:016x}{_id(info)[:16]}"


class ArtifactOwners:
    """Owners of the uploaded files: an empty file for each owner and artifact.

    Several may own the same file, which is deleted with the last of them.

    Args:
        blobs: Where the marks are stored, at `OWNER/ARTIFACT`.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def settled(self) -> AbstractContextManager[None]:
        """A lock under which no process adds or removes an owner."""
        return self._blobs.lock("lock")

    def add(self, owner: str, artifact_id: str) -> bool:
        """Add an owner; False if they owned the artifact before."""
        return self._blobs.put(f"{owner}/{artifact_id}", b"", use_reserve=True)

    def remove(self, owner: str, artifact_id: str) -> None:
        """Remove an owner."""
        self._blobs.delete(f"{owner}/{artifact_id}")

    def owns(self, owner: str, artifact_id: str) -> bool:
        """Return whether this owner is among those of the artifact."""
        try:
            self._blobs.stat(f"{owner}/{artifact_id}")
        except BlobNotFoundError:
            return False
        return True

    def owners(self, artifact_id: str) -> list[str]:
        """Return all owners of an artifact."""
        return [owner for owner in self._blobs.folders() if self.owns(owner, artifact_id)]

    def artifacts(self, owner: str) -> set[str]:
        """Ids of all artifacts of an owner."""
        return {info.name.rpartition("/")[2] for info in self._blobs.list(f"{owner}/")}
