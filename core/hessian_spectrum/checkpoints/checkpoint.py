"""A checkpoint: its files, the tensors that they hold, its configuration and its digest.

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

PYTORCH_CHECKPOINT = "a PyTorch checkpoint: convert it with `spectrum-server convert`"

T = TypeVar("T")

_ANYWHERE = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_LEADING = re.compile(r"^(module\.)+")

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = MAX_INDEX_BYTES = 2**24

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint; none outside of the models directory is read, wherever symbolic links lead."""

    name: str
    root: Path  # resolved
    path: Path  # resolved, inside of root

    @classmethod
    def of(cls, root: Path, name: str) -> "CheckpointFiles":
        """Locate the directory of a checkpoint.

        Args:
            root: The models directory, resolved.
            name: Name of the checkpoint.

        Returns:
            Its files.

        Raises:
            UnknownCheckpointError: There is no directory of this name.
            CheckpointError: The name leads out of the models directory, or is that of a file.
        """
        if not _NAME.fullmatch(name):
            raise UnknownCheckpointError("no checkpoint can have this name")
        path = _inside(root, root / name)
        if path.is_file():
            raise CheckpointError(PYTORCH_CHECKPOINT if is_pytorch(path) else "is no directory")
        if not path.is_dir():
            raise UnknownCheckpointError("there is no such checkpoint in the models directory; see /v1/models")
        return cls(name, root, path)

    def names(self) -> list[str]:
        """Names of all files in the directory, sorted."""
        return sorted(os.listdir(self.path))

    def file(self, name: str) -> Path:
        """Resolve a file of the checkpoint.

        Args:
            name: Name of the file.

        Returns:
            Its resolved path.

        Raises:
            CheckpointError: There is no such file, or it lies outside of the models directory.
        """
        path = _inside(self.root, self.path / name)
        if not path.is_file():  # nor a pipe, which would never end
            raise CheckpointError(f"has no file {name}")
        return path


def is_pytorch(path: Path) -> bool:
    """Return whether a file has the suffix of files that only torch reads."""
    return path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def _inside(root: Path, path: Path) -> Path:
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise CheckpointError("leads nowhere") from None
    if not real.is_relative_to(root):
        raise CheckpointError("leads out of the models directory")
    return real


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename tensors to their plain names: without `_orig_mod.` anywhere, and without `module.` at the beginning.

    Args:
        tensors: Values by the names in the files.

    Returns:
        The same values by plain names.

    Raises:
        CheckpointError: Two tensors have the same plain name.
    """
    renamed: dict[str, T] = {}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        if plain in renamed:
            raise CheckpointError(f"two tensors are called {plain:.100} without the prefix of {name:.100}")
        renamed[plain] = tensor
    return renamed


def plain_name(name: str) -> str:
    """The name of a parameter without wrappers."""
    return _LEADING.sub("", _ANYWHERE.sub("", name).removeprefix("."))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file: where it is stored, its shape and its type."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors has it: F32, BF16, ...


Tensors = dict[str, StoredTensor]


def weight_files(files: CheckpointFiles) -> list[str]:
    """List the files that hold weights.

    Args:
        files: Files of the checkpoint.

    Returns:
        Names of the safetensors files, preceded by that of their index if there is one.

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
    """Read the headers of all files with weights.

    Args:
        files: Files of the checkpoint.

    Returns:
        Every tensor by its name in the files.

    Raises:
        CheckpointError: A file is damaged or is not a safetensors file, or index and files disagree.
        OSError: A file cannot be read or written.
    """
    names = weight_files(files)
    if names[0] != INDEX:
        return _header(names[0], files.file(names[0]))
    index, tensors = _index(files), Tensors()
    for name in names[1:]:
        part = _header(name, files.file(name))
        if part.keys() != {tensor for tensor, file in index.items() if file == name}:
            raise CheckpointError(f"{name} holds other tensors than {INDEX} says")
        tensors |= part
    return tensors


def num_header_bytes(files: CheckpointFiles) -> int:
    """Measure the headers of all files with weights, which name every tensor.

    Args:
        files: Files of the checkpoint.

    Returns:
        The sum of their bytes.

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
    """Name of the file that holds each tensor."""
    with files.file(INDEX).open("rb") as file:
        content = file.read(MAX_INDEX_BYTES + 1)
    try:
        files_by_tensor = json.loads(content)["weight_map"] if len(content) <= MAX_INDEX_BYTES else None
    except (ValueError, RecursionError, KeyError, TypeError):
        files_by_tensor = None
    if not isinstance(files_by_tensor, dict) or not all(
        isinstance(f, str) and _SHARD.fullmatch(f) for f in files_by_tensor.values()
    ):
        raise CheckpointError(f"{INDEX} holds no weight_map from tensors to safetensors files")
    return files_by_tensor


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
    """The content of a checkpoint's files; readers decide whether it is a model that can be loaded."""

    files: CheckpointFiles
    configuration: Configuration
    tensors: Tensors
    digests: Digests

    @classmethod
    def read(cls, files: CheckpointFiles, digests: Digests) -> "Checkpoint":
        """Read the configuration and the headers of a checkpoint.

        Args:
            files: Its files.
            digests: Digests of files that are known already.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            OSError: A file cannot be read.
        """
        fields = read_configuration(files.file(FILE))
        return cls(files, fields, without_wrappers(stored_tensors(files)), digests)

    @property
    def sha256(self) -> str:
        """SHA-256 of all files that a model is loaded from.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            OSError: A file cannot be read or written.
        """
        names = [FILE, *weight_files(self.files)]
        return self.digests.of((name, self.files.file(name)) for name in sorted(names))
