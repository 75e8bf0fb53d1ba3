"""Where the command line puts an answer, and in which format."""

import errno
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import typer

from hessian_spectrum.client.exchanges import ResultFormat
from hessian_spectrum.client.output_file import check_writable

_FORMATS: dict[str, ResultFormat] = {".json": "json", ".npz": "npz", ".png": "png", ".svg": "svg", ".pdf": "pdf"}
_STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class Destination:
    """A path, or None for standard output, and the format of what goes there."""

    path: Path | None
    name: ResultFormat

    @property
    def is_text_to_read(self) -> bool:
        """Whether the answer is printed for a reader."""
        return self.path is None and self.name == "json"

    @property
    def target(self) -> Path | BinaryIO:
        """What `output_file` takes."""
        return sys.stdout.buffer if self.path is None else self.path


def destination(output: Path | None, name: ResultFormat | None) -> Destination:
    """What the options `--output` and `--format` mean, checked before anything is computed.

    Raises:
        typer.BadParameter: The format cannot be told, or nothing can be written there.
    """
    if output is None and name not in (None, "json") and sys.stdout.isatty():
        raise typer.BadParameter(f"{name} goes to a file or a pipe: give one with --output, or - for this terminal")
    if output is None or output == _STANDARD_OUTPUT:
        return Destination(None, name or "json")
    name = name or _FORMATS.get(output.suffix.lower())
    if name is None:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(_FORMATS)}; or say --format")
    where = Destination(output, name)
    try:
        check_writable(output)
    except OSError as error:
        raise cannot_write(where, error) from None
    return where


def cannot_write(where: Destination, error: OSError) -> typer.BadParameter:
    """What an error means for who chose the destination; a pipe whose reader has left is raised as it is."""
    if error.errno == errno.EPIPE:
        raise error
    return typer.BadParameter(f"{where.path or 'standard output'} cannot be written: {error.strerror or error}")
