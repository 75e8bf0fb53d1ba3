"""The artifact store: uploaded tokens as immutable .npy files, each named by the SHA-256 of its content."""

import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from api_schemas.artifacts import Artifact
from jobs.results import sync_directory

MAX_TOKEN = 2**31 - 1

Tokens = NDArray[np.integer[Any]]
Blocks = Callable[[], Iterator[Tokens]]
"""Reads tokens from their beginning, block by block."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DRAFT = "draft-"
_ABANDONED_SECONDS = 3600.0
"""Far longer than an upload may take."""


class UnknownArtifactError(Exception):
    """There is no artifact of this id, or no more."""


class UnfitTokensError(ValueError):
    """The numbers are no tokens."""


class ArtifactStore:
    """Tokens by id, each one file `ID.LARGEST_TOKEN.npy`: one step stores it, one takes it away.

    Args:  directory: made if missing; every process of a deployment sees the same one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """A file to write to and to read from, on the same disk, which is gone at the end."""
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=_DRAFT) as file:
            yield cast("BinaryIO", file)

    def remove_abandoned_drafts(self) -> None:
        """Remove what processes left that were killed."""
        for path in self._directory.glob(f"{_DRAFT}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def write(self, blocks: Blocks) -> tuple[Artifact, bool]:
        """Store the tokens, which are read twice, for good: (what they are, whether they are new here).

        Raises:  UnfitTokensError if there are none, or one is not in 0 .. 2^31 - 1.
        """
        num_tokens, largest = _counted(blocks())
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=_DRAFT)
        try:
            with open(descriptor, "wb") as file:
                for piece in _npy_pieces(num_tokens, largest, blocks()):
                    file.write(piece)
                    digest.update(piece)
                file.flush()
                os.fsync(descriptor)
            return self._kept(Path(name), digest.hexdigest(), largest)
        finally:
            Path(name).unlink(missing_ok=True)

    def get(self, artifact_id: str) -> Artifact:
        """What is known of an artifact.

        Raises:  UnknownArtifactError.
        """
        return _artifact(self._path(artifact_id))

    def page(self, size: int, after: str | None) -> tuple[list[Artifact], str | None]:
        """Up to `size` artifacts, newest first, and the place after which the next page begins.

        A place is 32 hexadecimal digits: the microsecond of creation, then the id's first 64 bits.
        """
        places: dict[str, Artifact] = {}
        for path in self._directory.glob("[0-9a-f][0-9a-f]/*.npy"):
            with suppress(UnknownArtifactError):
                artifact = _artifact(path)
                places[_place(artifact)] = artifact
        wanted = sorted((place for place in places if after is None or place < after), reverse=True)
        return [places[place] for place in wanted[:size]], wanted[size - 1] if len(wanted) > size else None

    def tokens(self, artifact_id: str) -> Tokens:
        """The tokens (num_tokens,), mapped: only what is looked at is read.

        Raises:  UnknownArtifactError.
        """
        return _mapped(self._path(artifact_id))

    def delete(self, artifact_id: str) -> None:
        """Remove the file; a job that has it open keeps it.

        Raises:  UnknownArtifactError.
        """
        self._path(artifact_id).unlink(missing_ok=True)

    def _kept(self, path: Path, digest: str, largest: int) -> tuple[Artifact, bool]:
        with suppress(UnknownArtifactError):
            return self.get(digest), False
        kept = self._directory / digest[:2] / f"{digest}.{largest}.npy"
        kept.parent.mkdir(exist_ok=True)
        path.chmod(0o640)
        path.replace(kept)
        sync_directory(kept.parent)
        return _artifact(kept), True

    def _path(self, artifact_id: str) -> Path:
        if _DIGEST.fullmatch(artifact_id):
            for path in self._directory.glob(f"{artifact_id[:2]}/{artifact_id}.*.npy"):
                return path
        raise UnknownArtifactError(artifact_id)


def _counted(blocks: Iterator[Tokens]) -> tuple[int, int]:
    """Number of tokens, and the largest."""
    num_tokens, largest = 0, -1
    for block in blocks:
        smallest, largest = int(block.min()), max(largest, int(block.max()))
        if smallest < 0 or largest > MAX_TOKEN:
            raise UnfitTokensError(f"holds {smallest if smallest < 0 else largest}, and tokens are 0 to {MAX_TOKEN}")
        num_tokens += len(block)
    if not num_tokens:
        raise UnfitTokensError("holds no tokens")
    return num_tokens, largest


def _npy_pieces(num_tokens: int, largest: int, blocks: Iterator[Tokens]) -> Iterator[bytes]:
    dtype = np.dtype("<u2" if largest < 2**16 else "<u4")
    header = io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (num_tokens,)}
    npy_format.write_array_header_1_0(header, fields)
    yield header.getvalue()
    for block in blocks:
        yield block.astype(dtype).tobytes()


def _mapped(path: Path) -> Tokens:
    try:
        return cast("Tokens", np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise UnknownArtifactError(path.name[:64]) from None


def _artifact(path: Path) -> Artifact:
    artifact_id, largest, _ = path.name.split(".")
    num_tokens = len(_mapped(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnknownArtifactError(artifact_id) from None
    return Artifact(
        id=artifact_id,
        kind="tokens",
        num_tokens=num_tokens,
        largest_token=int(largest),
        num_bytes=status.st_size,
        created_at=datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC),
    )


def _place(artifact: Artifact) -> str:
    return f"{round(artifact.created_at.timestamp() * 1e6):016x}{artifact.id[:16]}"
