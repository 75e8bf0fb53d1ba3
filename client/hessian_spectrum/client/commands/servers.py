"""Commands for the file of servers: names, addresses and API keys."""

import json
import re
import sys
from typing import Annotated

import typer
from pydantic import SecretStr

from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import URL_VARIABLE
from hessian_spectrum.client.commands.printing import Printer, printer
from hessian_spectrum.client.commands.server_file import (
    NamedServer,
    ServerFile,
    UnreadableServerFileError,
    server_file_path,
)
from hessian_spectrum.client.commands.session import INTERRUPTED, client_of
from hessian_spectrum.client.errors import SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.requests import DEFAULT_URL

Name = Annotated[str, typer.Argument(help="Name for the server, such as lab.")]

_NAME = re.compile(r"\w[\w.-]*")


@takes(out=printer)
def login(
    name: Name,
    url: Annotated[str, typer.Argument(help="Address of the server, such as https://spectra.example.org.")],
    *,
    default: Annotated[bool, typer.Option("--default", help="Use this server where no other is named.")] = False,
    out: Printer,
) -> None:
    """Store a server and an API key for it under a name, after the server has accepted the key.

    The key is asked for, or read from standard input if that is no terminal. An empty one stands for none.
    """  # noqa: DOC501 - the docstring is the help of the command
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} cannot be a name, which has letters, digits, dots and hyphens, as in: "
            "spectrum login lab https://spectra.example.org"
        )
    client_of(NamedServer(url=url)).close()  # refuses what is no address before a key is asked for
    key = _asked_key()
    server = NamedServer(url=url, key=None if key is None else SecretStr(key))
    _check_key(server)
    file = _loaded()
    file.servers[name] = server
    if default or file.default is None:
        file.default = name
    _save(file)
    typer.echo(f"{name} is stored in {server_file_path()}.", err=True)
    out.note({"name": name, "url": url, "default": name == file.default})


@takes(out=printer)
def logout(name: Name, *, out: Printer) -> None:
    """Remove a server and its API key from the file of servers."""
    file = _loaded()
    if file.servers.pop(name, None) is None:
        raise typer.BadParameter(f"there is no server {name}")
    if was_default := file.default == name:
        file.default = None
    _save(file)
    if was_default:
        typer.echo(
            f"{name} was the default server: commands without --server or {URL_VARIABLE} now go to {DEFAULT_URL}. "
            "`spectrum login NAME ADDRESS --default` stores another one.",
            err=True,
        )
    out.note({"name": name, "removed": True})


@takes(out=printer)
def list_servers(*, out: Printer) -> None:
    """Print the servers that `spectrum login` has stored, without their keys."""
    file = _loaded()
    rows = [
        {
            "name": name,
            "address": each.url,
            "key": "yes" if each.key else "no",
            "default": "yes" if name == file.default else "",
        }
        for name, each in file.servers.items()
    ]
    records = json.loads(file.model_dump_json(exclude={"servers": {"__all__": {"key"}}}))
    out.table(rows, records, empty="No servers are stored: add one with `spectrum login`.")


def _check_key(server: NamedServer) -> None:
    """Check that a server accepts a key, and say so if it accepts anything."""
    try:
        with client_of(server) as client:
            next(client.jobs(), None)
    except SpectrumClientError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if server.key is not None and _answers_without_key(server.url):
        typer.echo(f"{server.url} answers without an API key, too: it has not checked this one.", err=True)


def _answers_without_key(url: str) -> bool:
    try:
        with SpectrumClient(url) as client:
            next(client.jobs(), None)
    except SpectrumClientError:
        return False
    return True


def _asked_key() -> str | None:
    if sys.stdin is None:
        return None
    if not sys.stdin.isatty():
        try:
            return sys.stdin.read().strip() or None
        except UnicodeDecodeError:
            raise typer.BadParameter("The API key contains characters that an HTTP header cannot have.") from None
    try:
        text: str = typer.prompt("API key", default="", hide_input=True, show_default=False, err=True)
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None
    return text.strip() or None


def _loaded() -> ServerFile:
    try:
        return ServerFile.load()
    except UnreadableServerFileError as error:
        raise typer.BadParameter(str(error)) from None


def _save(file: ServerFile) -> None:
    try:
        file.save()
    except OSError as error:
        raise typer.BadParameter(f"{server_file_path()} cannot be written: {error.strerror or error}") from None
