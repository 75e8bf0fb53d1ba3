"""The inputs of a job that requests name and workers read: checkpoints, uploaded tokens and arrays."""

from dataclasses import dataclass, field
from typing import Protocol

from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.data.text import Tokens
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.jobs.artifacts import UnknownArtifactError
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck


class Artifacts(Protocol):
    """Uploaded files by id."""

    def tokens(self, artifact_id: str) -> Tokens:
        """The tokens (num_tokens,).

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        ...

    def safetensors(self, artifact_id: str) -> bytes:
        """A file of arrays.

        Raises:
            UnknownArtifactError: There is no such artifact.
            ArtifactDamagedError: Its file is damaged.
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
class Inputs:
    """Where a worker finds the inputs of a job; none by default.

    Attributes:
        check: tries checkpoints before they are computed with; None: they are not tried.
        fallback: how products of the request's models are computed if they must not be recorded.
    """

    models: ModelsDirectory = field(default_factory=lambda: ModelsDirectory(None))
    artifacts: Artifacts = field(default_factory=NoArtifacts)
    check: CheckpointCheck | None = None
    fallback: Fallback | None = None


NO_INPUTS = Inputs()
