"""Commands for the file of servers: names, addresses and API keys."""

import sys
from typing import Annotated

import typer
from pydantic import SecretStr

from hessian_spectrum.client.commands.options import Json
from hessian_spectrum.client.commands.printing import print_table
from hessian_spectrum.client.commands.server_file import (
    NamedServer,
    ServerFile,
    UnreadableServerFileError,
    server_file_path,
)
from hessian_spectrum.client.errors import SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient

Name = Annotated[str, typer.Argument(help="Name for the server, such as lab.")]


def login(
    name: Name,
    url: Annotated[str, typer.Argument(help="Address of the server, such as https://spectra.example.org.")],
    default: Annotated[bool, typer.Option("--default", help="Use this server where no other is named.")] = False,
) -> None:
    """Store a server and an API key for it under a name, after the server has accepted the key.

    The key is asked for, or read from standard input if that is no terminal. An empty one stands for none.
    """  # noqa: DOC501 - the docstring is the help of the command
    if "://" in name or "://" not in url:
        raise typer.BadParameter("give a name and an address, as in: spectrum login lab https://spectra.example.org")
    key = _asked_key()
    try:
        with SpectrumClient(url, key) as client:
            next(client.jobs(), None)
    except SpectrumClientError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    file = _loaded()
    file.servers[name] = NamedServer(url=url, key=None if key is None else SecretStr(key))
    if default or file.default is None:
        file.default = name
    _save(file)
    typer.echo(f"{name} is stored in {server_file_path()}.", err=True)


def logout(name: Name) -> None:
    """Remove a server and its API key from the file of servers."""
    file = _loaded()
    if file.servers.pop(name, None) is None:
        raise typer.BadParameter(f"there is no server {name}")
    if file.default == name:
        file.default = None
    _save(file)


def list_servers(as_json: Json = False) -> None:
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
    if as_json:
        typer.echo(file.model_dump_json(indent=2, exclude={"servers": {"__all__": {"key"}}}))
    else:
        print_table(rows, empty="No servers are stored: add one with `spectrum login`.")


def _asked_key() -> str | None:
    if not sys.stdin.isatty():
        return sys.stdin.read().strip() or None
    text: str = typer.prompt("API key", default="", hide_input=True, show_default=False, err=True)
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
