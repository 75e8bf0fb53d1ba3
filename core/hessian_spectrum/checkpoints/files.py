"""The files of one checkpoint."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hessian_spectrum.api_schemas.checkpoints import CHECKPOINT_NAME, CheckpointError, UnknownCheckpointError

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
