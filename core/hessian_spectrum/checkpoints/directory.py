"""The models directory: what a server can load."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from hessian_spectrum.api_schemas.checkpoints import (
    CHECKPOINT_NAME,
    MAX_DEPTH,
    CausalLmCheckpoint,
    CheckpointError,
    CheckpointVerdict,
    Gpt2Checkpoint,
    LoadableModel,
    NoVerdicts,
    UnknownCheckpointError,
    Verdicts,
)
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.checkpoints.causal_lm import causal_lm_fields
from hessian_spectrum.checkpoints.checkpoint import Checkpoint, CheckpointFiles, is_pytorch, num_header_bytes
from hessian_spectrum.checkpoints.configuration import FILE, UnknownSizeError
from hessian_spectrum.checkpoints.file_cache import Digests, Readings, State, state
from hessian_spectrum.checkpoints.gpt2 import MODEL_TYPE, OtherOptionError, gpt2_fields

T = TypeVar("T")

LARGE_HEADER_BYTES = 2**18
"""Size of a header in bytes, with some thousand tensors, above which it takes long to read and to search."""

_MOST_DESCRIBED, _MOST_KEPT = 1000, 8
"""Largest numbers of cached descriptions, which are small, and of fields of models, which hold all names and shapes."""


class ModelsDirectory:
    """The checkpoints in a directory, by name; a `CheckpointCatalog`.

    Args:
        path: The directory; None: this server has none.
        verdicts: Verdicts of workers on the checkpoints; None: there are none.

    Attributes:
        digests: Digests of files, which take minutes to compute for large files.
    """

    def __init__(self, path: Path | None, verdicts: Verdicts | None = None) -> None:
        self.path = path
        self._verdicts = NoVerdicts() if verdicts is None else verdicts
        self.digests = Digests()
        self._sha256s: Readings[str] = Readings(_MOST_DESCRIBED)
        self._described: Readings[LoadableModel] = Readings(_MOST_DESCRIBED)
        self._gpt2: Readings[Gpt2Checkpoint] = Readings(_MOST_KEPT)
        self._causal_lm: Readings[CausalLmCheckpoint] = Readings(_MOST_KEPT)

    def names(self) -> list[str]:
        """List everything that looks like a checkpoint, whether or not it can be loaded.

        Returns:
            The names, sorted.

        Raises:
            CheckpointError: The directory cannot be read.
        """
        if self.path is None:
            return []
        with _readable():
            return sorted(_checkpoint_names(self.path))

    def open(self, name: str) -> Checkpoint:
        """Read the configuration and headers of a checkpoint.

        Args:
            name: Name of the checkpoint.

        Returns:
            The checkpoint.

        Raises:
            UnknownCheckpointError: There is no such checkpoint.
            CheckpointError: It cannot be read.
        """
        with _readable():
            return Checkpoint.read(self._files(name), self.digests)

    def num_header_bytes(self, name: str) -> int:
        """Bytes of the headers of a checkpoint's files; 0 where none can be read."""
        try:
            with _readable():
                return num_header_bytes(self._files(name))
        except CheckpointError:
            return 0

    def gpt2(self, name: str) -> Gpt2Checkpoint:
        """Derive from a checkpoint the fields that it determines in a request's `gpt2` model.

        Args:
            name: Name of the checkpoint.

        Returns:
            The fields of the model.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        fields = self._read(name, gpt2_fields, self._gpt2)
        self._verdict(fields.checkpoint_sha256, "gpt2")
        return fields

    def causal_lm(self, name: str) -> CausalLmCheckpoint:
        """Derive from a checkpoint the fields that it determines in a request's `causal-lm` model.

        Args:
            name: Name of the checkpoint.

        Returns:
            The fields of the model.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        verdict = self._verdict(self._sha256(name), "causal-lm")
        sizes = None if verdict is None else verdict.sizes
        # what is kept of the files depends on what a worker found out about them
        key = name if sizes is None else f"{name} {sizes.model_dump_json()}"
        try:
            return self._read(name, lambda checkpoint: causal_lm_fields(checkpoint, sizes), self._causal_lm, key)
        except UnknownSizeError as error:
            raise CheckpointError(f"{error}, and no worker has found it out yet; see /v1/models") from None

    def verdicts(self, name: str) -> dict[str, CheckpointVerdict]:
        """Verdicts of workers on a checkpoint, by "kind sha256"; empty where the checkpoint cannot be read."""
        with suppress(CheckpointError):
            # as it was described, maybe by another process: of very many tensors it takes long to read the names
            sha256 = self._read(name, lambda checkpoint: _described(name, checkpoint), self._described).sha256 or ""
            verdicts = ((kind, self._verdicts.of(sha256, kind)) for kind in ("gpt2", "causal-lm"))
            return {f"{kind} {sha256}": verdict for kind, verdict in verdicts if verdict is not None}
        return {}

    def with_verdicts(self, verdicts: Verdicts) -> "ModelsDirectory":
        """Return the same directory with everything that was read of it, and other verdicts."""
        other = copy(self)
        other._verdicts = verdicts
        return other

    def describe(self, name: str) -> LoadableModel:
        """Describe a checkpoint.

        Args:
            name: Name of the checkpoint.

        Returns:
            The checkpoint as a model that can be loaded, or the reason why it cannot.

        Raises:
            UnknownCheckpointError: There is no such checkpoint.
        """
        try:
            description = self._read(name, lambda checkpoint: _described(name, checkpoint), self._described)
        except UnknownCheckpointError:
            raise
        except CheckpointError as error:
            return _refused(name, str(error))
        return self._judged(description)

    def is_described(self, name: str) -> bool:
        """Tell whether `describe` answers from the cache.

        Args:
            name: Name of the checkpoint.

        Returns:
            Whether the checkpoint was described since its files last changed.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        with _readable():
            return self._described.holds(name, self._files(name).path)

    def state(self, name: str) -> State:
        """Identify the state of a checkpoint's files.

        Args:
            name: Name of the checkpoint.

        Returns:
            A value that changes when one of the files does.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        with _readable():
            return state(self._files(name).path)

    def remember(self, name: str, of: State, description: LoadableModel) -> None:
        """Store the description that another process made of a checkpoint whose files were in this state."""
        self._described.put(name, of, description)

    def describe_all(self) -> list[LoadableModel]:
        """Describe every checkpoint.

        Returns:
            The descriptions, sorted by name.

        Raises:
            CheckpointError: The directory cannot be read.
        """
        descriptions = []
        for name in self.names():
            if not re.fullmatch(CHECKPOINT_NAME, name):
                shown = name.encode(errors="replace").decode()
                descriptions.append(_refused(shown, f"its name does not match {CHECKPOINT_NAME}"))
                continue
            try:
                descriptions.append(self.describe(name))
            except UnknownCheckpointError:  # it went away meanwhile
                continue
        return descriptions

    def _read(self, name: str, read: Callable[[Checkpoint], T], readings: Readings[T], key: str | None = None) -> T:
        with _readable():
            files = self._files(name)
            return readings.of(key or name, files.path, lambda: read(Checkpoint.read(files, self.digests)))

    def _files(self, name: str) -> CheckpointFiles:
        if self.path is None:
            raise UnknownCheckpointError("this server has no models directory")
        return CheckpointFiles.of(self.path.resolve(), name)

    def _judged(self, description: LoadableModel) -> LoadableModel:
        """Add the verdict of workers to a description of the files."""
        verdict = self._verdicts.of(description.sha256 or "", description.kind or "")
        if verdict is None:
            return description
        if verdict.state == "refused":
            return _refused(description.name, verdict.reason or "a worker could not load it")
        known = {} if verdict.sizes is None else verdict.sizes.model_dump(exclude={"left_out", "n_inner"})
        reason = "; ".join(each for each in (verdict.reason, verdict.fallback_reason) if each) or None
        return description.model_copy(update=known | {"state": verdict.state, "reason": reason})

    def _sha256(self, name: str) -> str:
        return self._read(name, lambda checkpoint: checkpoint.sha256, self._sha256s)

    def _verdict(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """Look up the verdict of workers on a checkpoint.

        Args:
            sha256: Digest of the checkpoint.
            kind: Kind of the model that it is loaded as.

        Returns:
            The verdict; None if no worker has tried.

        Raises:
            CheckpointError: A worker refused the checkpoint; the message is its reason.
        """
        verdict = self._verdicts.of(sha256, kind)
        if verdict is not None and verdict.state == "refused":
            raise CheckpointError(verdict.reason or "a worker could not load it")
        return verdict


def _checkpoint_names(root: Path, prefix: str = "", depth: int = MAX_DEPTH) -> Iterator[str]:
    """Names of everything that looks like a checkpoint; a directory that is not one stands for those inside of it."""
    for name in os.listdir(root / prefix):
        path = root / prefix / name
        # not Path.is_dir, which raises where this only says no
        is_directory = os.path.isdir(path)
        if name.startswith(".") or not (is_directory or (not prefix and is_pytorch(path))):
            continue
        inner: list[str] = []
        if is_directory and depth > 1 and not path.is_symlink() and re.fullmatch(CHECKPOINT_NAME, prefix + name):
            with suppress(OSError):
                inner = list(_checkpoint_names(root, f"{prefix}{name}/", depth - 1))
        if _has_checkpoint(path) or not (prefix or inner):
            yield prefix + name
        yield from inner


def _has_checkpoint(path: Path) -> bool:
    """Return whether files that a checkpoint has lie in the directory itself."""
    with suppress(OSError):
        return any(name == FILE or is_pytorch(Path(name)) or name.endswith(".safetensors") for name in os.listdir(path))
    return False


def _refused(name: str, reason: str) -> LoadableModel:
    return LoadableModel(name=name, state="refused", reason=reason, problem=reason)


def _described(name: str, checkpoint: Checkpoint) -> LoadableModel:
    """Describe the model according to the files, before any trial."""
    if checkpoint.configuration.get("model_type") == MODEL_TYPE:
        try:
            fields = gpt2_fields(checkpoint)
        except OtherOptionError:
            pass
        else:
            model = Gpt2.model_validate({"kind": "gpt2", "checkpoint": name} | fields.model_dump())
            num_parameters = sum(map(prod, parameter_shapes(model).values()))
            return _untried(name, "gpt2", fields.model_dump() | {"num_parameters": num_parameters})
    try:
        other = causal_lm_fields(checkpoint)
    except UnknownSizeError:
        return _untried(name, "causal-lm", {"checkpoint_sha256": checkpoint.sha256})
    num_parameters = sum(map(prod, other.parameters.values()))
    return _untried(name, "causal-lm", other.model_dump() | {"num_parameters": num_parameters})


def _untried(name: str, kind: str, fields: dict[str, Any]) -> LoadableModel:
    known = {"name": name, "kind": kind, "sha256": fields["checkpoint_sha256"]}
    return LoadableModel.model_validate(fields | known | {"reason": "no worker has tried it yet"})


@contextmanager
def _readable() -> Iterator[None]:
    """Raise CheckpointError in place of OSError, whose text would name a path.

    Yields:
        Nothing.

    Raises:
        CheckpointError: The block raises OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from None
