"""Files that become artifacts: spooled to disk as they arrive, checked, and stored as tokens or as arrays.

Tokens come as nanoGPT's .bin or as a one-dimensional .npy array of integers. Named arrays come as npz or
safetensors, or one at a time as .npy, with the name in the query. Nothing is read by pickle.
"""

import asyncio
import mmap
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayType
from hessian_spectrum.programs.program import ProgramError
from hessian_spectrum.service.problems import ProblemError, invalid_field, malformed_upload
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.service.uploads.file_kinds import (
    NPY,
    NPY_FILE,
    NPZ,
    ONNX,
    PT2,
    SAFETENSORS,
    check_kind,
    recognised,
)
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget, Reservation
from hessian_spectrum.service.uploads.npz import (
    MAX_HEADER_BYTES,
    NPY_MAGIC,
    UnreadableArrayError,
    archive_members,
    npz_contents,
    read_header,
    read_numbers,
)
from hessian_spectrum.service.uploads.parser import UPLOAD_SECONDS, upload_too_slow
from hessian_spectrum.service.uploads.pt2 import ReadProgram, read_program
from hessian_spectrum.service.uploads.safetensors import safetensors_arrays
from hessian_spectrum.storage.artifact_files import NamedArray, Tokens, UnfitArrayError, UnfitTokensError
from hessian_spectrum.storage.local_directory import require_room

BINARY = "application/octet-stream"
TOKEN_MEDIA_TYPES = (BINARY, NPY)

_PIECE_BYTES = 2**20

ARRAY_MEDIA_TYPES = (NPZ, SAFETENSORS)

PROGRAM_MEDIA_TYPES = (PT2, ONNX)

MAX_PROGRAM_MEMBERS = 20_000
"""Largest number of members of a program's archive: one for each parameter and constant, and a few others."""

_MAX_REASON_LENGTH = 8000

MAX_ARRAYS = 256
_NAME = re.compile(r"(?!__metadata__$)[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}", re.ASCII)
_NAME_RULE = (
    "names must have 1 to 128 ASCII letters, digits and characters _ . : / -, and begin with a letter, a digit or _; "
    "the name __metadata__ is reserved"
)
_BUFFER_BYTES = 2**20


@asynccontextmanager
async def spooled(request: Request, artifacts: ArtifactService) -> AsyncIterator[BinaryIO]:
    """Write the body of a request to a file on the disk of the artifacts.

    Args:
        request: A request whose body has not been read.
        artifacts: Store in which the file becomes an artifact.

    Yields:
        The file, which is removed after the context.

    Raises:
        ProblemError: 408 if the upload takes too long.
        OSError: The file cannot be written, for example because the disk is full.
    """
    with artifacts.draft() as file:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await _receive(request, file)
        except TimeoutError:
            raise upload_too_slow() from None
        yield file


async def _receive(request: Request, file: BinaryIO) -> None:
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            await run_in_threadpool(_write, file, buffer)
            buffer = bytearray()
    await run_in_threadpool(_write, file, buffer)
    await run_in_threadpool(file.flush)


def _write(file: BinaryIO, content: bytearray) -> None:
    require_room(file.fileno(), len(content))
    file.write(content)


def store_tokens(file: BinaryIO, artifacts: ArtifactService, media_type: str) -> tuple[AnyArtifact, bool]:
    """Store the tokens of a file as an artifact.

    Args:
        file: The file as it was uploaded.
        artifacts: Store for the tokens.
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
    """Find the tokens in a file.

    Returns:
        The offset of the first token in bytes, and the type of the tokens.

    Raises:
        UnreadableArrayError: The array cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(MAX_HEADER_BYTES)
    kind = recognised(_mapped(file)) if size else None
    if kind is not None and kind is not NPY_FILE:
        raise UnreadableArrayError(f"looks like {kind.name}: {kind.advice}")
    if media_type == BINARY and not head.startswith(NPY_MAGIC):
        if size % 2:
            raise UnreadableArrayError(f"has {size} bytes, but each token of a .bin file takes two")
        return 0, np.dtype("<u2")
    shape, _, dtype, start = read_header(head)
    if len(shape) != 1 or type(shape[0]) is not int or dtype.kind not in "iu":
        raise UnreadableArrayError(
            "must be a one-dimensional array of integers, as tokens are stored. To upload other data, give the array a "
            "name, as in ?name=x"
        )
    if shape[0] * dtype.itemsize != size - start:
        raise UnreadableArrayError("does not have the size that its header states")
    return start, dtype


def _blocks(file: BinaryIO, start: int, dtype: np.dtype[Any]) -> Iterator[Tokens]:
    file.seek(start)
    while block := file.read(_PIECE_BYTES):
        yield np.frombuffer(block, dtype)


def store_arrays(
    file: BinaryIO, artifacts: ArtifactService, *, media_type: str, budget: MemoryBudget, name: str = ""
) -> tuple[AnyArtifact, bool]:
    """Store the arrays of a file as an artifact.

    Args:
        file: The file as it was uploaded.
        artifacts: Store for the arrays.
        media_type: `NPZ`, `SAFETENSORS` or `NPY`.
        budget: Memory for members that must be inflated.
        name: Name of the array of a .npy file.

    Returns:
        The artifact, and whether it is new to the uploader.

    Raises:
        ProblemError: 400 for a malformed file, 422 for an array that no job can use, 413 or 503 for lack of memory.
    """
    with budget.reservation(artifacts.principal.owner) as reservation:
        body = _mapped(file)
        with _explained(body, media_type):
            arrays = _checked(_arrays(body, media_type, reservation, name))
        try:
            return artifacts.write_arrays(arrays)
        except UnfitArrayError as error:
            raise invalid_field((), str(error)) from None


def store_program(
    file: BinaryIO, artifacts: ArtifactService, *, media_type: str, budget: MemoryBudget
) -> tuple[AnyArtifact, bool]:
    """Store a program of torch.export or an ONNX file as an artifact.

    Args:
        file: The file as it was uploaded.
        artifacts: Store for the program.
        media_type: `PT2` or `ONNX`.
        budget: Memory for members that must be inflated, and for the graph.

    Returns:
        The artifact, and whether it is new to the uploader.

    Raises:
        ProblemError: 400 for a malformed file, 422 for a program that cannot be used, 413 or 503 for lack of memory.
    """
    with budget.reservation(artifacts.principal.owner) as reservation:
        body = _mapped(file)
        with _explained(body, media_type):
            read = _read_program(body, media_type, reservation)
        return artifacts.write_program(read.program, read.arrays)


def _read_program(body: memoryview, media_type: str, reservation: Reservation) -> ReadProgram:
    try:
        if media_type == ONNX:
            from hessian_spectrum.service.uploads.onnx_program import read_onnx  # noqa: PLC0415 - loads onnx

            return read_onnx(body, reservation.grow)
        return read_program(archive_members(body, reservation, max_members=MAX_PROGRAM_MEMBERS), reservation.grow)
    except ProgramError as error:
        raise invalid_field((), f"the program cannot be used: {_printable(str(error))}") from None


@contextmanager
def _explained(body: memoryview, media_type: str) -> Iterator[None]:
    """If a file is refused and looks like a file of another kind, say so instead."""
    try:
        yield
    except ProblemError as error:
        if error.problem.status in (400, 422):
            check_kind(body, media_type)
        raise


def _printable(text: str) -> str:
    """Return a text that may quote names from a file, with unprintable characters replaced."""
    return "".join(each if each.isprintable() else "?" for each in text[:_MAX_REASON_LENGTH])


def _mapped(file: BinaryIO) -> memoryview:
    """Return the bytes of the file, mapped into memory; no other process changes it."""
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except ValueError:
        raise malformed_upload("The body is empty.") from None


def _arrays(body: memoryview, media_type: str, reservation: Reservation, name: str) -> Iterable[tuple[str, NamedArray]]:
    if media_type == SAFETENSORS:
        return safetensors_arrays(body)
    if media_type == NPY:
        return [_npy_array(name, body)]
    members = npz_contents(body, reservation, path_of=lambda name: (name,), max_members=MAX_ARRAYS)
    return (_npy_array(member, content) for (member,), content in members)


def _npy_array(name: str, content: memoryview) -> tuple[str, NamedArray]:
    try:
        numbers = read_numbers(content)
    except UnreadableArrayError as error:
        raise invalid_field((name[:64],), str(error)) from None
    kind, num_bits = numbers.dtype.kind.upper(), 8 * numbers.dtype.itemsize
    return name, NamedArray("BOOL" if kind == "B" else cast("ArrayType", f"{kind}{num_bits}"), numbers)


def _checked(arrays: Iterable[tuple[str, NamedArray]]) -> dict[str, NamedArray]:
    """Check the names of arrays.

    Returns:
        The arrays by name, each unique and one that a job can name.

    Raises:
        ProblemError: 422 for an unfit or repeated name, or for too many arrays.
    """
    by_name: dict[str, NamedArray] = {}
    for name, array in arrays:
        if not _NAME.fullmatch(name):
            raise invalid_field((name[:64],), _NAME_RULE)
        if name in by_name:
            raise invalid_field((name,), "occurs twice")
        if len(by_name) == MAX_ARRAYS:
            raise invalid_field((name,), f"exceeds the limit of {MAX_ARRAYS} arrays")
        by_name[name] = array
    if not by_name:
        raise invalid_field((), "the file holds no arrays")
    return by_name
