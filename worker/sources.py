"""What requests name and workers read: checkpoints and uploaded tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field

from checkpoints.directory import ModelsDirectory
from curvature.data.text import Tokens
from jobs.artifacts import UnknownArtifactError


def no_artifacts(artifact_id: str) -> Tokens:
    """Where there are none.

    Raises:  UnknownArtifactError.
    """
    raise UnknownArtifactError(artifact_id)


@dataclass(frozen=True)
class Sources:
    """Where a worker finds them; none by default."""

    models: ModelsDirectory = field(default_factory=lambda: ModelsDirectory(None))
    read_tokens: Callable[[str], Tokens] = no_artifacts  # (num_tokens,) of an id; raises UnknownArtifactError


NO_SOURCES = Sources()
