"""A command's connection to a server, its input, and how it ends."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from hessian_spectrum.client.commands.options import URL_VARIABLE
from hessian_spectrum.client.commands.server_file import NamedServer, ServerFile, UnreadableServerFileError
from hessian_spectrum.client.errors import ServerUnreachableError, SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.requests import DEFAULT_URL

KEY_VARIABLE = "SPECTRUM_API_KEY"
"""Environment variable of the API key, not a command-line option, because others can see arguments of a process."""

_ID_LENGTH = 32

_INTERRUPTED = 130
"""Exit code that shells use for a program ended by Ctrl-C."""


def server_named(name_or_url: str | None) -> NamedServer:
    """Find the server of a command.

    Args:
        name_or_url: The option `--server`.

    Returns:
        The server.

    Raises:
        BadParameter: If the file of servers has no such name, or cannot be read.
    """
    try:
        return ServerFile.load().find(name_or_url)
    except UnreadableServerFileError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyError as error:
        message = f"there is no server {error.args[0]}: add it with `spectrum login {error.args[0]} ADDRESS`"
        raise typer.BadParameter(message) from None


@contextmanager
def connected(server: str | None) -> Iterator[SpectrumClient]:
    """Client of a server; errors are printed and end the command with exit code 1.

    Args:
        server: The option `--server`.

    Yields:
        The client.

    Raises:
        Exit: After an error of the client.
    """
    found = server_named(server)
    key = os.environ.get(KEY_VARIABLE) or (None if found.key is None else found.key.get_secret_value())
    try:
        with SpectrumClient(found.url, key) as client:
            yield client
    except SpectrumClientError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def complete_id(client: SpectrumClient, beginning: str) -> str:
    """Complete the id of a job.

    Args:
        client: Client of the server that has the job.
        beginning: A beginning of the id, or all of it.

    Returns:
        The id of the only listed job whose id begins so.

    Raises:
        BadParameter: If no id begins so, or several do.
    """
    text = beginning.lower()
    if len(text) >= _ID_LENGTH:
        return text
    found = []
    for job in client.jobs():  # newest first, which is in the descending order of ids
        if job.id.startswith(text):
            found.append(job.id)
        elif job.id < text:
            break
    if len(found) == 1:
        return found[0]
    if found:
        raise typer.BadParameter(f"{len(found)} jobs begin with {beginning}, such as {found[0]} and {found[-1]}")
    raise typer.BadParameter(f"no job begins with {beginning}")


def read_request(source: str) -> dict[str, Any]:
    """Read a request.

    Args:
        source: Path of a JSON file, or `-` for standard input.

    Returns:
        The fields.

    Raises:
        BadParameter: If it cannot be read, or is no JSON object.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
        request = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(request, dict):
        raise typer.BadParameter("the request must be a JSON object")
    return request


@contextmanager
def leaving(job_id: str, server: str | None) -> Iterator[None]:
    """Print how to return to a job when following it ends early.

    Args:
        job_id: Id of the job.
        server: The option `--server`.

    Yields:
        Nothing; the job is followed inside of the block.

    Raises:
        Exit: If the command was interrupted, or the server did not answer for long.
    """
    options = "" if server in (None, DEFAULT_URL, os.environ.get(URL_VARIABLE)) else f" --server {server}"
    commands = f"""\
  spectrum watch {job_id}{options}               follow it again
  spectrum result {job_id}{options} -o FILE      fetch its result when it has ended
  spectrum cancel {job_id}{options}              end it"""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"Job {job_id} goes on without this command. To return to it:\n{commands}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except ServerUnreachableError as error:
        typer.echo(f"{error}\nThe job does not depend on this command. To return to it:\n{commands}", err=True)
        raise typer.Exit(1) from None
