"""Files that are there only when they are whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


@contextmanager
def partial_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces the one at `path` at the end; after an error nothing has changed.

    Raises:  OSError if the directory cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            os.chmod(file.name, _plain_mode())
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def _plain_mode() -> int:
    """Of files that are made as usual; temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
