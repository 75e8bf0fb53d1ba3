"""The destination and the format of an answer on the command line."""

import errno
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import typer

from hessian_spectrum.client.output_file import check_writable
from hessian_spectrum.client.requests import ResultFormat

_FORMATS: dict[str, ResultFormat] = {
    ".json": "json",
    ".npz": "npz",
    ".csv": "csv",
    ".png": "png",
    ".svg": "svg",
    ".pdf": "pdf",
}
_STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class Destination:
    """Path of the output, or None for standard output, with its format."""

    path: Path | None
    name: ResultFormat

    @property
    def is_text_to_read(self) -> bool:
        """Whether the answer is printed for a person to read."""
        return self.path is None and self.name == "json"

    @property
    def target(self) -> Path | BinaryIO:
        """Argument for `output_file`."""
        return sys.stdout.buffer if self.path is None else self.path


def destination(output: Path | None, name: ResultFormat | None) -> Destination:
    """Interpret the options `--output` and `--format`, and check them before anything is computed.

    Args:
        output: Path of the output, `-` or None for standard output.
        name: Format; None derives it from the path.

    Returns:
        The destination.

    Raises:
        BadParameter: If the format cannot be determined, or the destination cannot be written.
    """
    if output is None and name not in (None, "json") and sys.stdout.isatty():
        raise typer.BadParameter(
            f"{name} is not written to a terminal: name a file with --output, or use --output - to do so anyway"
        )
    if output is None or output == _STANDARD_OUTPUT:
        return Destination(None, name or "json")
    name = name or _FORMATS.get(output.suffix.lower())
    if name is None:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(_FORMATS)}: choose a format with --format")
    where = Destination(output, name)
    try:
        check_writable(output)
    except OSError as error:
        usage_error = cannot_write(where, error)
        raise usage_error from None
    return where


def cannot_write(where: Destination, error: OSError) -> typer.BadParameter:
    """Return the user error for a failed write; the error of a pipe whose reader has left is raised unchanged."""
    if error.errno == errno.EPIPE:
        raise error
    return typer.BadParameter(f"{where.path or 'standard output'} cannot be written: {error.strerror or error}")
