"""Uploaded arrays, as they were when the job was accepted."""

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hessian_spectrum.jobs.artifacts import ArtifactDamagedError, UnknownArtifactError
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.worker.inputs import Artifacts


def uploaded_arrays(artifacts: Artifacts, artifact_id: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Those of these names, in the precision that they were uploaded in.

    Raises:
        InvalidProblemError: If they are not there any more, or are not those that the job was accepted with.
    """
    try:
        found = load(artifacts.safetensors(artifact_id))
    except UnknownArtifactError:
        raise InvalidProblemError(f"the uploaded arrays {artifact_id} are not there any more") from None
    except (ArtifactDamagedError, SafetensorError):
        raise InvalidProblemError(f"the uploaded arrays {artifact_id} are damaged: upload them again") from None
    if any(name not in found or tuple(found[name].shape) != shape for name, shape in shapes.items()):
        raise InvalidProblemError(f"the uploaded arrays {artifact_id} are not those that the job was accepted with")
    return {name: found[name] for name in shapes}
