"""Uploaded files as a job reads them: whole, or row by row from disk."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hessian_spectrum.api_schemas.artifacts import StoredArray
from hessian_spectrum.curvature.data.text import Tokens
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.storage.array_rows import ArrayRows, JoinedRows
from hessian_spectrum.storage.artifacts import ArtifactDamagedError, UnknownArtifactError

_MISSING = "the uploaded arrays {} are not there any more"
_DAMAGED = "the uploaded arrays {} are damaged: upload them again"
_CHANGED = "the uploaded arrays {} are not those that the job was accepted with"


class Artifacts(Protocol):
    """Uploaded files by id."""

    def tokens(self, artifact_id: str) -> Tokens:
        """Return the tokens (num_tokens,).

        Raises:
            UnknownArtifactError: There is no such artifact.
        """
        ...

    def safetensors(self, artifact_id: str) -> bytes:
        """Return a file of arrays.

        Raises:
            UnknownArtifactError: There is no such artifact.
            ArtifactDamagedError: Its file is damaged.
        """
        ...

    def rows(self, artifact_id: str) -> dict[str, ArrayRows]:
        """Open the arrays of a file, whose rows are read from disk when they are used.

        Raises:
            UnknownArtifactError: There is no such artifact.
            ArtifactDamagedError: Its file is damaged.
        """
        ...


class NoArtifacts:
    """A source of uploaded files that has none."""

    def tokens(self, artifact_id: str) -> Tokens:
        """Raise an error, as there are no tokens.

        Args:
            artifact_id: Any id.

        Raises:
            UnknownArtifactError: Always.
        """
        raise UnknownArtifactError(artifact_id)

    def safetensors(self, artifact_id: str) -> bytes:
        """Raise an error, as there are no arrays.

        Args:
            artifact_id: Any id.

        Raises:
            UnknownArtifactError: Always.
        """
        raise UnknownArtifactError(artifact_id)

    def rows(self, artifact_id: str) -> dict[str, ArrayRows]:
        """Raise an error, as there are no arrays.

        Args:
            artifact_id: Any id.

        Raises:
            UnknownArtifactError: Always.
        """
        raise UnknownArtifactError(artifact_id)


def uploaded_arrays(artifacts: Artifacts, artifact_id: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Load uploaded arrays in the precision in which they were uploaded.

    Args:
        artifacts: Uploaded files by id.
        artifact_id: The id of the file.
        shapes: Shapes by name of the arrays to load, as they were when the job was accepted.

    Returns:
        The arrays by name.

    Raises:
        InvalidProblemError: If the file is missing or damaged, or its arrays have other shapes.
    """
    found = loaded_arrays(artifacts, artifact_id)
    if any(name not in found or tuple(found[name].shape) != shape for name, shape in shapes.items()):
        raise InvalidProblemError(_CHANGED.format(artifact_id))
    return {name: found[name] for name in shapes}


def loaded_arrays(artifacts: Artifacts, artifact_id: str) -> dict[str, Tensor]:
    """Load all arrays of an uploaded file.

    Args:
        artifacts: Uploaded files by id.
        artifact_id: The id of the file.

    Returns:
        The arrays by name.

    Raises:
        InvalidProblemError: If the file is missing or damaged.
    """
    try:
        return load(artifacts.safetensors(artifact_id))
    except UnknownArtifactError:
        raise InvalidProblemError(_MISSING.format(artifact_id)) from None
    except (ArtifactDamagedError, SafetensorError):
        raise InvalidProblemError(_DAMAGED.format(artifact_id)) from None


def uploaded_rows(
    artifacts: Artifacts, parts: Sequence[Sequence[str]], arrays: Mapping[str, StoredArray]
) -> dict[str, JoinedRows]:
    """Open arrays that are the rows of several parts, one after the other, without reading them.

    Args:
        artifacts: Uploaded files by id.
        parts: The ids of the files of each part, whose arrays belong together.
        arrays: Types and shapes by name of the arrays as they were when the job was accepted.

    Returns:
        The rows of each array by name.

    Raises:
        InvalidProblemError: If a file is missing or damaged, or the arrays have other types or shapes.
    """
    opened: dict[str, dict[str, ArrayRows]] = {}
    rows: dict[str, list[ArrayRows]] = {name: [] for name in arrays}
    for files in parts:
        for each in files:
            if each not in opened:
                opened[each] = _opened(artifacts, each)
        for name, found in rows.items():
            holder = next((each for each in files if name in opened[each]), None)
            if holder is None:
                raise InvalidProblemError(_CHANGED.format(files[0]))
            found.append(opened[holder][name])
    joined = {name: JoinedRows(found) for name, found in rows.items()}
    for name, expected in arrays.items():
        if list(joined[name].shape) != expected.shape or joined[name].dtype != expected.dtype:
            raise InvalidProblemError(_CHANGED.format(parts[0][0]))
    return joined


def _opened(artifacts: Artifacts, artifact_id: str) -> dict[str, ArrayRows]:
    try:
        return artifacts.rows(artifact_id)
    except UnknownArtifactError:
        raise InvalidProblemError(_MISSING.format(artifact_id)) from None
    except ArtifactDamagedError:
        raise InvalidProblemError(_DAMAGED.format(artifact_id)) from None
