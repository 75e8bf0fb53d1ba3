"""Files of named arrays: npz and safetensors, read from the disk that they arrived on, without pickle."""

import mmap
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayType
from hessian_spectrum.jobs.array_files import NamedArray, UnfitArrayError
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.uploads.archive import npz_contents
from hessian_spectrum.service.uploads.callers_artifacts import CallersArtifacts
from hessian_spectrum.service.uploads.desk import NPZ
from hessian_spectrum.service.uploads.fields import malformed_upload
from hessian_spectrum.service.uploads.memory import Lease, UploadMemory
from hessian_spectrum.service.uploads.npy import UnreadableArrayError, read_numbers
from hessian_spectrum.service.uploads.safetensors import safetensors_arrays

SAFETENSORS = "application/x-safetensors"
ARRAY_MEDIA_TYPES = (NPZ, SAFETENSORS)

MAX_ARRAYS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}", re.ASCII)


def store_arrays(
    file: BinaryIO, store: CallersArtifacts, media_type: str, memory: UploadMemory, owner: str | None
) -> tuple[AnyArtifact, bool]:
    """Keep the arrays of the file: (what they are, whether they are new here).

    Args:
        memory: Of which members that must be inflated take their size.
        owner: Id of the key that it is counted for.

    Raises:
        ProblemError: : 400 for no such file, 422 for what is no such array, 413 or 503 for want of memory.
    """
    with memory.lease(owner) as lease:
        body = _mapped(file)
        arrays = _checked(_npz_arrays(body, lease) if media_type == NPZ else safetensors_arrays(body))
        try:
            return store.write_arrays(arrays)
        except UnfitArrayError as error:
            raise invalid_field((), str(error)) from None


def _mapped(file: BinaryIO) -> memoryview:
    """The bytes of a draft, which nobody else writes to or cuts off; the system keeps in memory what it likes."""
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except ValueError:
        raise malformed_upload("The body is empty.") from None


def _npz_arrays(body: memoryview, lease: Lease) -> Iterator[tuple[str, NamedArray]]:
    for (name,), content in npz_contents(body, lease, lambda name: (name,), MAX_ARRAYS):
        try:
            numbers = read_numbers(content)
        except UnreadableArrayError as error:
            raise invalid_field((name[:64],), str(error)) from None
        yield name, NamedArray(cast("ArrayType", f"{numbers.dtype.kind.upper()}{8 * numbers.dtype.itemsize}"), numbers)


def _checked(arrays: Iterable[tuple[str, NamedArray]]) -> dict[str, NamedArray]:
    """By name, each of which is there once and is one that a job may ask for.

    Raises:
        ProblemError: 422.
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
