"""Where commands write, and how they end when they cannot."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer

from hessian_spectrum.client.output_file import check_writable, output_file

READER_HAS_LEFT = 141
"""Exit code that shells use for a program whose output nobody reads any more, as in `spectrum list | head -1`."""

_STANDARD_OUTPUT = Path("-")


def output_path(output: Path | None) -> Path | None:
    """Interpret the option `--output`, and check before anything is computed that it can be written.

    Args:
        output: The option.

    Returns:
        The path; None for standard output.

    Raises:
        BadParameter: If it cannot be written.
    """
    if output is None or output == _STANDARD_OUTPUT:
        return None
    try:
        check_writable(output)
    except OSError as error:
        raise typer.BadParameter(_failure(output, error)) from None
    return output


def is_terminal(path: Path | None) -> bool:
    """Return whether a person sees what is written."""
    return path is None and sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file or standard output for the output of a command; errors of writing end the command.

    Args:
        path: The path; None for standard output.

    Yields:
        The open file.

    Raises:
        BadParameter: If it cannot be written.
        Exit: If the reader of a pipe has left.
    """
    if path is None and sys.stdout is None:
        raise typer.BadParameter("standard output is closed: name a file with --output")
    try:
        with output_file(sys.stdout.buffer if path is None else path) as file:
            yield file
    except OSError as error:
        if path is None:
            _discard_the_rest()
        if error.errno == errno.EPIPE:
            raise typer.Exit(READER_HAS_LEFT) from None
        raise typer.BadParameter(_failure(path, error)) from None


def write_text(path: Path | None, text: str) -> None:
    """Write text with a line break at its end; errors of writing end the command."""
    encoding = sys.stdout.encoding if path is None and sys.stdout is not None else "utf-8"
    with opened(path) as file:
        file.write(f"{text}\n".encode(encoding, errors="backslashreplace"))


def _discard_the_rest() -> None:
    """Keep Python from writing again, at its end, what could not be written."""
    with contextlib.suppress(OSError, ValueError):  # of a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failure(path: Path | None, error: OSError) -> str:
    return f"{path or 'standard output'} cannot be written: {error.strerror or error}"
