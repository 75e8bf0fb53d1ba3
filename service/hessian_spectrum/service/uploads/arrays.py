"""Files of named arrays: npz and safetensors, read from the disk that they were spooled to, without pickle."""

import mmap
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayType
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.uploads.archive import npz_contents
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.service.uploads.fields import malformed_upload
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npy import UnreadableArrayError, read_numbers
from hessian_spectrum.service.uploads.parser import NPZ
from hessian_spectrum.service.uploads.safetensors import safetensors_arrays
from hessian_spectrum.storage.artifact_files import NamedArray, UnfitArrayError

SAFETENSORS = "application/x-safetensors"
ARRAY_MEDIA_TYPES = (NPZ, SAFETENSORS)

MAX_ARRAYS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}", re.ASCII)


def store_arrays(
    file: BinaryIO, artifacts: ArtifactService, media_type: str, budget: MemoryBudget
) -> tuple[AnyArtifact, bool]:
    """Store the arrays of a file as an artifact.

    Args:
        file: The file as it was uploaded.
        artifacts: Where to store the arrays.
        media_type: `NPZ` or `SAFETENSORS`.
        budget: Memory for members that must be inflated.

    Returns:
        The artifact, and whether it is new to the uploader.

    Raises:
        ProblemError: 400 for a malformed file, 422 for an array that no job takes, 413 or 503 for want of memory.
    """
    with budget.reservation(artifacts.owner) as reservation:
        body = _mapped(file)
        arrays = _checked(_npz_arrays(body, reservation) if media_type == NPZ else safetensors_arrays(body))
        try:
            return artifacts.write_arrays(arrays)
        except UnfitArrayError as error:
            raise invalid_field((), str(error)) from None


def _mapped(file: BinaryIO) -> memoryview:
    """The bytes of the file, mapped into memory; nobody else writes to it or truncates it."""
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except ValueError:
        raise malformed_upload("The body is empty.") from None


def _npz_arrays(body: memoryview, reservation: Reservation) -> Iterator[tuple[str, NamedArray]]:
    for (name,), content in npz_contents(body, reservation, lambda name: (name,), MAX_ARRAYS):
        try:
            numbers = read_numbers(content)
        except UnreadableArrayError as error:
            raise invalid_field((name[:64],), str(error)) from None
        yield name, NamedArray(cast("ArrayType", f"{numbers.dtype.kind.upper()}{8 * numbers.dtype.itemsize}"), numbers)


def _checked(arrays: Iterable[tuple[str, NamedArray]]) -> dict[str, NamedArray]:
    """The arrays by name, each unique and one that a job can name.

    Raises:
        ProblemError: 422 for an unfit or repeated name, or for too many arrays.
    """
    found: dict[str, NamedArray] = {}
    for name, array in arrays:
        if not _NAME.fullmatch(name):
            raise invalid_field((name[:64],), f"names must match {_NAME.pattern}")
        if name in found:
            raise invalid_field((name,), "is there twice")
        if len(found) == MAX_ARRAYS:
            raise invalid_field((name,), f"is one of more than {MAX_ARRAYS} arrays")
        found[name] = array
    if not found:
        raise invalid_field((), "the file holds no arrays")
    return found
