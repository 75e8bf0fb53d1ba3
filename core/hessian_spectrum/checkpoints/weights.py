"""Which tensors the safetensors files of a checkpoint hold: their headers, never their numbers."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hessian_spectrum.api_schemas.checkpoints import CheckpointError
from hessian_spectrum.checkpoints.files import PYTORCH_CHECKPOINT, CheckpointFiles, is_pytorch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = MAX_INDEX_BYTES = 2**24

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors has it: F32, BF16, ...


Tensors = dict[str, StoredTensor]


def weight_files(files: CheckpointFiles) -> list[str]:
    """Names of the files with weights, and of their index if there are several.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        OSError: A file cannot be read or written.
    """
    there = set(files.names())
    if WEIGHTS in there:
        return [WEIGHTS]
    if INDEX in there:
        return [INDEX, *sorted(set(_index(files).values()))]
    if any(is_pytorch(Path(name)) for name in there):
        raise CheckpointError(PYTORCH_CHECKPOINT)
    raise CheckpointError(f"has no file {WEIGHTS}")


def stored_tensors(files: CheckpointFiles) -> Tensors:
    """Every tensor by its name in the files.

    Raises:
        CheckpointError: If a file is damaged or no safetensors, or index and files disagree.
        OSError: A file cannot be read or written.
    """
    names = weight_files(files)
    if names[0] != INDEX:
        return _header(names[0], files.file(names[0]))
    index, found = _index(files), Tensors()
    for name in names[1:]:
        part = _header(name, files.file(name))
        if part.keys() != {tensor for tensor, file in index.items() if file == name}:
            raise CheckpointError(f"{name} holds other tensors than {INDEX} says")
        found |= part
    return found


def num_header_bytes(files: CheckpointFiles) -> int:
    """Bytes of the headers of all files with weights, which name every tensor.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        OSError: A file cannot be read or written.
    """
    names = [name for name in weight_files(files) if name != INDEX]
    return sum(min(_header_bytes(files.file(name)), MAX_HEADER_BYTES) for name in names)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _index(files: CheckpointFiles) -> dict[str, str]:
    """Name of the file of each tensor."""
    with files.file(INDEX).open("rb") as file:
        content = file.read(MAX_INDEX_BYTES + 1)
    try:
        found = json.loads(content)["weight_map"] if len(content) <= MAX_INDEX_BYTES else None
    except (ValueError, RecursionError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(f, str) and _SHARD.fullmatch(f) for f in found.values()):
        raise CheckpointError(f"{INDEX} holds no weight_map from tensors to safetensors files")
    return found


def _header(name: str, path: Path) -> Tensors:
    with path.open("rb") as file:
        start = file.read(8)
    if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
        # a zip archive, or a pickle of protocol 2 or later
        if start.startswith((b"PK\x03\x04", b"\x80")):
            raise CheckpointError(PYTORCH_CHECKPOINT)
        raise CheckpointError(f"{name} is no safetensors file: its header would be too large")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118 - no mapping
            return {t: StoredTensor(path, t, tuple(s.get_shape()), s.get_dtype()) for t, s in slices.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{name} is damaged or no safetensors file: {error!s:.100}") from None
