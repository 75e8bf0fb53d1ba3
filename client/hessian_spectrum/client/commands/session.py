"""A command's connection to a server, and how it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import SecretStr

from hessian_spectrum.client.commands.destination import OPTIONS_OF_FIELDS
from hessian_spectrum.client.commands.options import URL_VARIABLE
from hessian_spectrum.client.commands.server_file import NamedServer, ServerFile, UnreadableServerFileError
from hessian_spectrum.client.errors import ProblemResponseError, ServerUnreachableError, SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.requests import DEFAULT_URL

KEY_VARIABLE = "SPECTRUM_API_KEY"
"""Environment variable of the API key, not a command-line option, because others can see arguments of a process."""

INTERRUPTED = 130
"""Exit code that shells use for a program ended by Ctrl-C."""


def server_named(name_or_url: str | None) -> NamedServer:
    """Find the server of a command, and the key that is sent to it.

    A server that is stored with a key gets that key, and no other. The key of the environment is for addresses, whose
    stored key it replaces, and for servers that are stored without a key.

    Args:
        name_or_url: The option `--server`.

    Returns:
        The server.

    Raises:
        BadParameter: If the file of servers has no such name, or cannot be read.
    """
    try:
        found = ServerFile.load().find(name_or_url)
    except UnreadableServerFileError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyError:
        name = name_or_url or "NAME"
        message = f"there is no server {name_or_url}: add it with `spectrum login {name} ADDRESS`"
        raise typer.BadParameter(message if name_or_url else "the name of the server is empty") from None
    is_address = name_or_url is not None and "://" in name_or_url
    of_environment = os.environ.get(KEY_VARIABLE)
    if of_environment and (is_address or found.key is None):
        return NamedServer(url=found.url, key=SecretStr(of_environment))
    return found


def client_of(server: NamedServer) -> SpectrumClient:
    """Return a client of a server.

    Raises:
        BadParameter: If its address or key cannot be used.
    """
    try:
        return SpectrumClient(server.url, None if server.key is None else server.key.get_secret_value())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def connected(server: str | None) -> Iterator[SpectrumClient]:
    """Client of a server; errors are printed and end the command.

    Args:
        server: The option `--server`.

    Yields:
        The client.

    Raises:
        BadParameter: If the server refuses the value of an option.
        Exit: After another error of the client, with exit code 1.
    """
    try:
        with client_of(server_named(server)) as client:
            yield client
    except SpectrumClientError as error:
        if isinstance(error, ProblemResponseError) and (refused := _refused_options(error)):
            raise typer.BadParameter(refused) from None
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except UnicodeEncodeError:
        raise typer.BadParameter("an option or an argument has bytes that are not text in UTF-8") from None


def _refused_options(error: ProblemResponseError) -> str:
    """Return what is wrong with options, which are parameters in the query; empty if it is not about them alone."""
    errors = error.problem.errors or []
    if any(each.loc[:1] != ["query"] for each in errors):
        return ""
    names = [str(each.loc[-1]) for each in errors]
    options = [OPTIONS_OF_FIELDS.get(name, name).replace("_", "-") for name in names]
    return "; ".join(f"--{option}: {each.msg}" for option, each in zip(options, errors, strict=True))


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
        raise typer.Exit(INTERRUPTED) from None
    except ServerUnreachableError as error:
        typer.echo(f"{error}\nThe job does not depend on this command. To return to it:\n{commands}", err=True)
        raise typer.Exit(1) from None
