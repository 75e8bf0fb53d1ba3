"""Token files: nanoGPT's .bin, and one-dimensional .npy arrays of integers."""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from hessian_spectrum.api_schemas.artifacts import AnyArtifact
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.uploads.archive import MAGIC as ZIP_MAGIC
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.service.uploads.npy import MAGIC, MAX_HEADER_BYTES, UnreadableArrayError, read_header
from hessian_spectrum.service.uploads.safetensors import may_be_safetensors
from hessian_spectrum.storage.artifact_files import Tokens, UnfitTokensError

BINARY, NPY = "application/octet-stream", "application/x-npy"
TOKEN_MEDIA_TYPES = (BINARY, NPY)

_PIECE_BYTES = 2**20


def store_tokens(file: BinaryIO, artifacts: ArtifactService, media_type: str) -> tuple[AnyArtifact, bool]:
    """Store the tokens of a file as an artifact.

    Args:
        file: The file as it was uploaded.
        artifacts: Where to store the tokens.
        media_type: `BINARY` or `NPY`.

    Returns:
        The artifact, and whether it is new to the uploader.

    Raises:
        ProblemError: 422 for a file that does not hold tokens.
    """
    try:
        start, dtype = _layout(file, media_type)
        return artifacts.write_tokens(lambda: _blocks(file, start, dtype))
    except (UnreadableArrayError, UnfitTokensError) as error:
        raise invalid_field((), f"the file {error}") from None


def _layout(file: BinaryIO, media_type: str) -> tuple[int, np.dtype[Any]]:
    """Where the tokens begin, and their type.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(MAX_HEADER_BYTES)
    if media_type == BINARY and not head.startswith(MAGIC):
        if head.startswith(ZIP_MAGIC) or may_be_safetensors(head, size):
            raise UnreadableArrayError("begins as npz or safetensors do: send it with their Content-Type")
        if size % 2:
            raise UnreadableArrayError(f"has {size} bytes, and tokens of a .bin file two each")
        return 0, np.dtype("<u2")
    shape, _, dtype, start = read_header(head)
    if len(shape) != 1 or type(shape[0]) is not int or dtype.kind not in "iu":
        raise UnreadableArrayError("must be an array of integers in one dimension")
    if shape[0] * dtype.itemsize != size - start:
        raise UnreadableArrayError("has not the size that its header says")
    return start, dtype


def _blocks(file: BinaryIO, start: int, dtype: np.dtype[Any]) -> Iterator[Tokens]:
    file.seek(start)
    while block := file.read(_PIECE_BYTES):
        yield np.frombuffer(block, dtype)
