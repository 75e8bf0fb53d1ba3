"""The models directory: what a server can load."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TypeVar

from api_schemas.checkpoints import (
    CHECKPOINT_NAME,
    CausalLmCheckpoint,
    CheckpointError,
    Gpt2Checkpoint,
    LoadableModel,
    UnknownCheckpointError,
)
from api_schemas.models import Gpt2
from api_schemas.parameter_shapes import parameter_shapes
from checkpoints.causal_lm import causal_lm_fields
from checkpoints.checkpoint import Checkpoint
from checkpoints.digest import Digests
from checkpoints.files import CheckpointFiles, is_pytorch
from checkpoints.gpt2 import MODEL_TYPE, OtherOptionError, gpt2_fields
from checkpoints.readings import Readings, State, state
from checkpoints.weights import num_header_bytes

T = TypeVar("T")

LARGE_HEADER_BYTES = 2**18
"""Some thousand tensors: to read their names is work, and so it is to look through them for each block of a request."""

_MOST_DESCRIBED, _MOST_KEPT = 1000, 8
"""Descriptions are small; the fields of a model hold the name and the shape of each parameter."""


class ModelsDirectory:
    """Checkpoints by name; a `CheckpointCatalog`. None: this server has none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests = Digests()
        self._described: Readings[LoadableModel] = Readings(_MOST_DESCRIBED)
        self._gpt2: Readings[Gpt2Checkpoint] = Readings(_MOST_KEPT)
        self._causal_lm: Readings[CausalLmCheckpoint] = Readings(_MOST_KEPT)

    def names(self) -> list[str]:
        """Of everything that looks like a checkpoint, whether or not it can be loaded.

        Raises:  CheckpointError if the directory cannot be read.
        """
        if self._path is None:
            return []
        with _readable():
            return sorted(name for name in os.listdir(self._path) if _is_listed(self._path / name))

    def open(self, name: str) -> Checkpoint:
        """The checkpoint of this name.

        Raises:  UnknownCheckpointError; CheckpointError if it cannot be read.
        """
        with _readable():
            return Checkpoint.read(self._files(name), self._digests)

    def num_header_bytes(self, name: str) -> int:
        """How long the lists of the checkpoint's tensors are; 0 where there is none that could be read."""
        try:
            with _readable():
                return num_header_bytes(self._files(name))
        except CheckpointError:
            return 0

    def gpt2(self, name: str) -> Gpt2Checkpoint:
        """Raises:  CheckpointError."""
        return self._read(name, gpt2_fields, self._gpt2)

    def causal_lm(self, name: str) -> CausalLmCheckpoint:
        """Raises:  CheckpointError."""
        return self._read(name, causal_lm_fields, self._causal_lm)

    def describe(self, name: str) -> LoadableModel:
        """The checkpoint of this name, or why it cannot be loaded.

        Raises:  UnknownCheckpointError.
        """
        try:
            return self._read(name, lambda checkpoint: _described(name, checkpoint), self._described)
        except UnknownCheckpointError:
            raise
        except CheckpointError as error:
            return LoadableModel(name=name, problem=str(error))

    def is_described(self, name: str) -> bool:
        """Whether it is known what `describe` says of this name, as its files are now.

        Raises:  CheckpointError.
        """
        with _readable():
            return self._described.holds(name, self._files(name).path)

    def state(self, name: str) -> State:
        """Changes when a file of the checkpoint does.

        Raises:  CheckpointError.
        """
        with _readable():
            return state(self._files(name).path)

    def remember(self, name: str, of: State, found: LoadableModel) -> None:
        """Say the same of this name as another process did of its files in this state."""
        self._described.put(name, of, found)

    def describe_all(self) -> list[LoadableModel]:
        """Every checkpoint, by name.

        Raises:  CheckpointError if the directory cannot be read.
        """
        found = []
        for name in self.names():
            if not re.fullmatch(CHECKPOINT_NAME, name):
                shown = name.encode(errors="replace").decode()
                found.append(LoadableModel(name=shown, problem=f"its name does not match {CHECKPOINT_NAME}"))
                continue
            try:
                found.append(self.describe(name))
            except UnknownCheckpointError:  # it went away meanwhile
                continue
        return found

    def _read(self, name: str, read: Callable[[Checkpoint], T], readings: Readings[T]) -> T:
        with _readable():
            files = self._files(name)
            return readings.of(name, files.path, lambda: read(Checkpoint.read(files, self._digests)))

    def _files(self, name: str) -> CheckpointFiles:
        if self._path is None:
            raise UnknownCheckpointError("this server has no models directory")
        return CheckpointFiles.of(self._path.resolve(), name)


def _is_listed(path: Path) -> bool:
    # not Path.is_dir, which raises where this only says no
    return not path.name.startswith(".") and (os.path.isdir(path) or is_pytorch(path))


def _described(name: str, checkpoint: Checkpoint) -> LoadableModel:
    if checkpoint.configuration.get("model_type") == MODEL_TYPE:
        try:
            fields = gpt2_fields(checkpoint)
        except OtherOptionError:
            pass
        else:
            model = Gpt2.model_validate({"kind": "gpt2", "checkpoint": name} | fields.model_dump())
            num_parameters = sum(map(prod, parameter_shapes(model).values()))
            return _loadable(name, "gpt2", num_parameters, fields)
    other = causal_lm_fields(checkpoint)
    return _loadable(name, "causal-lm", sum(map(prod, other.parameters.values())), other)


def _loadable(name: str, kind: str, num_parameters: int, fields: Gpt2Checkpoint | CausalLmCheckpoint) -> LoadableModel:
    return LoadableModel.model_validate(
        fields.model_dump()
        | {"name": name, "kind": kind, "num_parameters": num_parameters, "sha256": fields.checkpoint_sha256}
    )


@contextmanager
def _readable() -> Iterator[None]:
    """Raises:  CheckpointError in place of OSError, whose text would name a path."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from None
