"""One checkpoint: its files, the tensors that they hold, its configuration and its digest.

Of the safetensors files only the headers are read, never the numbers.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open

from hessian_spectrum.api_schemas.checkpoints import CHECKPOINT_NAME, CheckpointError, UnknownCheckpointError
from hessian_spectrum.checkpoints.configuration import FILE, Configuration, read_configuration
from hessian_spectrum.checkpoints.file_cache import Digests

_NAME = re.compile(CHECKPOINT_NAME)


@dataclass(frozen=True)
class CheckpointFiles:
    """Reads nothing outside of the models directory `root`, wherever symbolic links lead."""

    name: str
    root: Path  # resolved
    path: Path  # resolved, inside of root

    @classmethod
    def of(cls, root: Path, name: str) -> "CheckpointFiles":
        """Raises:  UnknownCheckpointError; CheckpointError if the name leads out of the models directory."""
        if not _NAME.fullmatch(name):
            raise UnknownCheckpointError("no checkpoint can have this name")
        path = _inside(root, root / name)
        if path.is_file():
            raise CheckpointError(PYTORCH_CHECKPOINT if is_pytorch(path) else "is no directory")
        if not path.is_dir():
            raise UnknownCheckpointError("there is no such checkpoint in the models directory; see /v1/models")
        return cls(name, root, path)

    def names(self) -> list[str]:
        """Of all that lies in the directory."""
        return sorted(os.listdir(self.path))

    def file(self, name: str) -> Path:
        """Raises:  CheckpointError if there is no such file, or it lies outside of the models directory."""
        path = _inside(self.root, self.path / name)
        if not path.is_file():  # nor a pipe, which would never end
            raise CheckpointError(f"has no file {name}")
        return path


PYTORCH_CHECKPOINT = "a PyTorch checkpoint: convert it with `spectrum-server convert`"


def is_pytorch(path: Path) -> bool:
    """Whether it is called as files are that only torch reads."""
    return path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def _inside(root: Path, path: Path) -> Path:
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise CheckpointError("leads nowhere") from None
    if not real.is_relative_to(root):
        raise CheckpointError("leads out of the models directory")
    return real


T = TypeVar("T")

_ANYWHERE = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_LEADING = re.compile(r"^(module\.)+")


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """The same by plain names: `_orig_mod.` is taken off wherever it stands, `module.` at the beginning.

    Raises:
        CheckpointError: If two names are the same then.
    """
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        if plain in found:
            raise CheckpointError(f"two tensors are called {plain:.100} without the prefix of {name:.100}")
        found[plain] = tensor
    return found


def plain_name(name: str) -> str:
    """The name of a parameter without wrappers."""
    return _LEADING.sub("", _ANYWHERE.sub("", name).removeprefix("."))


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


@dataclass(frozen=True)
class Checkpoint:
    """What its files say; whether that is a model that can be loaded, its readers decide."""

    files: CheckpointFiles
    configuration: Configuration
    tensors: Tensors
    digests: Digests

    @classmethod
    def read(cls, files: CheckpointFiles, digests: Digests) -> "Checkpoint":
        """Raises:  CheckpointError; OSError."""
        fields = read_configuration(files.file(FILE))
        return cls(files, fields, without_wrappers(stored_tensors(files)), digests)

    @property
    def sha256(self) -> str:
        """Of all files that a model is loaded from.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            OSError: A file cannot be read or written.
        """
        names = [FILE, *weight_files(self.files)]
        return self.digests.of((name, self.files.file(name)) for name in sorted(names))
