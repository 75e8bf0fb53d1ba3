"""One checkpoint: its configuration, where its tensors lie, its digest."""

from dataclasses import dataclass

from hessian_spectrum.checkpoints import configuration
from hessian_spectrum.checkpoints.configuration import Configuration, read_configuration
from hessian_spectrum.checkpoints.digest import Digests
from hessian_spectrum.checkpoints.files import CheckpointFiles
from hessian_spectrum.checkpoints.weights import Tensors, stored_tensors, weight_files
from hessian_spectrum.checkpoints.wrappers import without_wrappers


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
        fields = read_configuration(files.file(configuration.FILE))
        return cls(files, fields, without_wrappers(stored_tensors(files)), digests)

    @property
    def sha256(self) -> str:
        """Of all files that a model is loaded from.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            OSError: A file cannot be read or written.
        """
        names = [configuration.FILE, *weight_files(self.files)]
        return self.digests.of((name, self.files.file(name)) for name in sorted(names))
