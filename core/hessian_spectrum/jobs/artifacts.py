"""The artifact store: uploaded files, immutable, each in one form of ours and named by the SHA-256 of its content."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayArtifact, ArtifactError, StoredArray, TokenArtifact
from hessian_spectrum.jobs.array_files import Arrays, described, read_header, safetensors_pieces
from hessian_spectrum.jobs.disk import make_directory, present, require_room
from hessian_spectrum.jobs.results import sync_directory
from hessian_spectrum.jobs.token_files import Blocks, Tokens, counted, mapped, npy_pieces

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DRAFT = "draft-"
_ARRAYS = ".safetensors"
_ABANDONED_SECONDS = 3600.0
"""Far longer than an upload may take."""


class UnknownArtifactError(Exception):
    """There is no artifact of this id, or no more."""


class ArtifactDamagedError(Exception):
    """The file of an artifact does not have the content that its name promises."""


class ArtifactStore:
    """By id tokens, one file `ID.LARGEST_TOKEN.npy`, and arrays, `ID.safetensors`: one step stores or removes each.

    Args:
        directory: Made if missing; every process of a deployment sees the same one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        make_directory(directory)

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """A file to write to and to read from, on the same disk, which is gone at the end."""
        with tempfile.NamedTemporaryFile(dir=present(self.directory), prefix=_DRAFT) as file:
            yield cast("BinaryIO", file)

    def remove_abandoned_drafts(self) -> None:
        """Remove what processes left that were killed."""
        for path in self.directory.glob(f"{_DRAFT}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def write_tokens(self, blocks: Blocks) -> tuple[AnyArtifact, bool]:
        """Store the tokens, which are read twice, for good: (what they are, whether they are new here).

        Raises:
            UnfitTokensError: If there are none, or one is not in 0 .. 2^31 - 1.
        """
        num_tokens, largest = counted(blocks())
        return self._write(npy_pieces(num_tokens, largest, blocks()), f".{largest}.npy")

    def write_arrays(self, arrays: Arrays) -> tuple[AnyArtifact, bool]:
        """Store the arrays, which are read twice, for good: (what they are, whether they are new here).

        Raises:
            UnfitArrayError: If a number is NaN or infinite.
        """
        return self._write(safetensors_pieces(arrays, described(arrays)), _ARRAYS)

    def get(self, artifact_id: str) -> AnyArtifact:
        """What is known of an artifact.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        return _artifact(self._path(artifact_id))

    def page(
        self, size: int, after: str | None, ids: Collection[str] | None = None
    ) -> tuple[list[AnyArtifact], str | None]:
        """Up to `size` artifacts, newest first, and the place after which the next page begins; of these ids if given.

        A place is 32 hexadecimal digits: the microsecond of creation, then the id's first 64 bits.
        """
        places: dict[str, Path] = {}
        for path in present(self.directory).glob("[0-9a-f][0-9a-f]/*"):
            if ids is None or path.name.split(".", 1)[0] in ids:
                with suppress(FileNotFoundError):
                    places[_place(path)] = path
        wanted = sorted((place for place in places if after is None or place < after), reverse=True)
        found = []
        for place in wanted[:size]:  # headers are read of these alone
            with suppress(UnknownArtifactError):
                found.append(_artifact(places[place]))
        return found, wanted[size - 1] if len(wanted) > size else None

    def tokens(self, artifact_id: str) -> Tokens:
        """The tokens (num_tokens,), mapped: only what is looked at is read.

        Raises:
            UnknownArtifactError: Also if the artifact holds no tokens.
        """
        path = self._path(artifact_id)
        if path.suffix == _ARRAYS:
            raise UnknownArtifactError(artifact_id)
        with _there(artifact_id):
            return mapped(path)

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """What the arrays are; this makes the store an `ArtifactCatalog`.

        Raises:
            ArtifactError: If there is no such artifact, or it holds no arrays.
        """
        try:
            artifact = self.get(artifact_id)
        except UnknownArtifactError:
            raise ArtifactError("there is no such artifact: upload the arrays first") from None
        if not isinstance(artifact, ArrayArtifact):
            raise ArtifactError("this artifact holds tokens: num_sequences and sequence_length are for those")
        return artifact.arrays

    def safetensors(self, artifact_id: str) -> bytes:
        """The whole file of an artifact that holds arrays.

        Raises:
            UnknownArtifactError: There is no such artifact.
            ArtifactDamagedError: Its file is damaged.
        """
        with _there(artifact_id):
            content = self._path(artifact_id).read_bytes()
        if hashlib.sha256(content).hexdigest() != artifact_id:
            raise ArtifactDamagedError(artifact_id)
        return content

    def sizes(self) -> dict[str, int]:
        """Bytes of each artifact, by id."""
        found: dict[str, int] = {}
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                found[path.name.split(".", 1)[0]] = path.stat().st_size
        return found

    def remove_unused(self, seconds: float) -> list[str]:
        """Remove the files that nobody has named by their id within this time: the ids; who has one open keeps it."""
        removed = []
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_atime > seconds:
                    path.unlink()
                    removed.append(path.name.split(".", 1)[0])
        return removed

    def delete(self, artifact_id: str) -> None:
        """Remove the file; a job that has it open keeps it.

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        self._path(artifact_id).unlink(missing_ok=True)

    def _write(self, pieces: Iterator[bytes], ending: str) -> tuple[AnyArtifact, bool]:
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=present(self.directory), prefix=_DRAFT)
        try:
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    require_room(descriptor, len(piece))
                    file.write(piece)
                    digest.update(piece)
                file.flush()
                os.fsync(descriptor)
            return self._kept(Path(name), digest.hexdigest(), ending)
        finally:
            Path(name).unlink(missing_ok=True)

    def _kept(self, path: Path, digest: str, ending: str) -> tuple[AnyArtifact, bool]:
        with suppress(UnknownArtifactError):
            return self.get(digest), False
        kept = self.directory / digest[:2] / f"{digest}{ending}"
        kept.parent.mkdir(exist_ok=True)
        path.chmod(0o640)
        path.replace(kept)
        sync_directory(kept.parent)
        return _artifact(kept), True

    def _path(self, artifact_id: str) -> Path:
        if _DIGEST.fullmatch(artifact_id):
            for path in present(self.directory).glob(f"{artifact_id[:2]}/{artifact_id}.*"):
                with suppress(OSError):  # the time of its last use; that it was written stays
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
                return path
        raise UnknownArtifactError(artifact_id)


@contextmanager
def _there(artifact_id: str) -> Iterator[None]:
    """Raises:  UnknownArtifactError in place of FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise UnknownArtifactError(artifact_id) from None


def _artifact(path: Path) -> AnyArtifact:
    artifact_id, ending = path.name.split(".", 1)
    with _there(artifact_id):
        status = path.stat()
        created_at = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
        if path.suffix == _ARRAYS:
            return ArrayArtifact(
                id=artifact_id,
                num_bytes=status.st_size,
                created_at=created_at,
                kind="arrays",
                arrays=read_header(path),
            )
        return TokenArtifact(
            id=artifact_id,
            num_bytes=status.st_size,
            created_at=created_at,
            kind="tokens",
            num_tokens=len(mapped(path)),
            largest_token=int(ending.split(".")[0]),
        )


def _place(path: Path) -> str:
    return f"{path.stat().st_mtime_ns // 1000:016x}{path.name[:16]}"
