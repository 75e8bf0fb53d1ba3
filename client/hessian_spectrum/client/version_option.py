"""The option `--version` of the commands of this project."""

from typing import Annotated

import typer

from hessian_spectrum.api_schemas.version import __version__


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
