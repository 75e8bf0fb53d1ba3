"""What a file looks like, for messages about files that were sent with another Content-Type."""

from dataclasses import dataclass

from hessian_spectrum.service.problems import ProblemError, malformed_upload
from hessian_spectrum.service.uploads.npz import NPY_MAGIC, ZIP_MAGIC, archive_directory, is_inner
from hessian_spectrum.service.uploads.safetensors import may_be_safetensors

NPZ, NPY, SAFETENSORS = "application/x-npz", "application/x-npy", "application/x-safetensors"
PT2, ONNX = "application/vnd.pytorch.pt2", "application/onnx"

_HEAD_BYTES = 256
_MAX_DIRECTORY_BYTES = 2**22
_OLD_PICKLE = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file of torch.save that is not an archive."""

_OLDEST_IR, _NEWEST_IR = 3, 20
"""Versions of the ONNX format, which the second byte of a file names."""

_PRODUCER, _GRAPH = 0x12, 0x3A
"""Tags of the fields of an ONNX file that may follow the version."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: What such a file is, as in `it looks like ...`.
        advice: What to do with it.
        media_type: Content-Type with which it is sent; None if it cannot be used.
    """

    name: str
    advice: str
    media_type: str | None = None


def _sent_as(name: str, media_type: str) -> FileKind:
    return FileKind(name, f"send it with Content-Type: {media_type}", media_type)


_NPZ_FILE = _sent_as("an npz archive", NPZ)
_SAFETENSORS_FILE = _sent_as("a safetensors file", SAFETENSORS)
_PT2_FILE = _sent_as("a .pt2 file of torch.export.save", PT2)
_ONNX_FILE = _sent_as("an ONNX file", ONNX)
NPY_FILE = FileKind(
    "a .npy array", f"send it with Content-Type: {NPY}, and an array of data also with its name, as in ?name=x", NPY
)
_TORCH_SAVE_FILE = FileKind(
    "a file of torch.save or torch.jit.save, which holds a pickle",
    "write a network with torch.export.save, and parameters or data as safetensors",
)
_OLD_PT2_FILE = FileKind(
    "a .pt2 file of an older PyTorch, which holds pickles", "export the network with PyTorch 2.9 or newer"
)
_ARCHIVE = FileKind("a zip archive", f"send npz as {NPZ}, and the .pt2 file of torch.export.save as {PT2}")


def recognised(body: memoryview) -> FileKind | None:
    """Return the kind of file that bytes look like; None if it is not recognised."""
    head = bytes(body[:_HEAD_BYTES])
    if head.startswith(ZIP_MAGIC):
        return _archive_kind(body)
    if head.startswith(NPY_MAGIC):
        return NPY_FILE
    if head.startswith(_OLD_PICKLE):
        return _TORCH_SAVE_FILE
    if may_be_safetensors(head, len(body)):
        return _SAFETENSORS_FILE
    return _ONNX_FILE if _may_be_onnx(head) else None


def check_kind(body: memoryview, media_type: str) -> None:
    """Say what kind of file could not be read, unless it looks like what its Content-Type says.

    Args:
        body: The bytes of the file.
        media_type: Its Content-Type.

    Raises:
        ProblemError: 400 if it looks like another kind of file.
    """
    kind = recognised(body)
    if kind is not None and kind is not _ARCHIVE and kind.media_type != media_type:
        raise malformed_upload(f"The body is not of type {media_type}: it looks like {kind.name}; {kind.advice}.")


def _archive_kind(body: memoryview) -> FileKind:
    try:
        members = archive_directory(body, _MAX_DIRECTORY_BYTES)
    except ProblemError:
        return _ARCHIVE
    names = [] if is_inner(members) else [each.orig_filename for each in members]
    within = {name.partition("/")[2] for name in names}
    if "models/model.json" in within:
        return _PT2_FILE
    if "data.pkl" in within:
        return _TORCH_SAVE_FILE
    if any(name.startswith("serialized_exported_program") for name in names):
        return _OLD_PT2_FILE
    return _NPZ_FILE if names and all(name.endswith(".npy") for name in names) else _ARCHIVE


def _may_be_onnx(head: bytes) -> bool:
    """Return whether bytes begin as an ONNX file does: its version, then the name of a producer or the graph."""
    if len(head) < 8 or head[0] != 0x08 or not _OLDEST_IR <= head[1] <= _NEWEST_IR:
        return False
    if head[2] == _PRODUCER:
        name = head[4 : 4 + head[3]]
        return len(name) >= 3 and name.isascii() and name.decode().isprintable()
    position = 3
    while head[2] == _GRAPH and position < len(head) - 1 and head[position] >= 0x80:
        position += 1
    return head[2] == _GRAPH and head[position + 1] == 0x0A  # the first node
