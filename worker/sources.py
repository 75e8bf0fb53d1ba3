"""What requests name and workers read: checkpoints, uploaded tokens and arrays."""

from dataclasses import dataclass, field
from typing import Protocol

from checkpoints.directory import ModelsDirectory
from curvature.data.text import Tokens
from jobs.artifacts import UnknownArtifactError


class Artifacts(Protocol):
    """Uploaded files by id."""

    def tokens(self, artifact_id: str) -> Tokens:
        """The tokens (num_tokens,).

        Raises:  UnknownArtifactError.
        """
        ...

    def safetensors(self, artifact_id: str) -> bytes:
        """A file of arrays.

        Raises:  UnknownArtifactError; ArtifactDamagedError.
        """
        ...


class NoArtifacts:
    """Where there are none."""

    def tokens(self, artifact_id: str) -> Tokens:
        """Raises:  UnknownArtifactError."""
        raise UnknownArtifactError(artifact_id)

    def safetensors(self, artifact_id: str) -> bytes:
        """Raises:  UnknownArtifactError."""
        raise UnknownArtifactError(artifact_id)


@dataclass(frozen=True)
class Sources:
    """Where a worker finds them; none by default."""

    models: ModelsDirectory = field(default_factory=lambda: ModelsDirectory(None))
    artifacts: Artifacts = field(default_factory=NoArtifacts)


NO_SOURCES = Sources()
