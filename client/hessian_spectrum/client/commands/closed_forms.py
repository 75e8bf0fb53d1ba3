"""Commands for what has a formula."""

from pathlib import Path

import typer

from hessian_spectrum.client.commands.destination import Destination, destination
from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import ArrayFile, RequestFile, Server
from hessian_spectrum.client.commands.request_files import read_request
from hessian_spectrum.client.commands.session import connected


@takes(where=destination)
def closed_form(request: ArrayFile, *, where: Destination, server: Server = None) -> None:
    """Print the spectrum of a network that has a formula, or write it to a file."""
    fields = _read_bytes(request) if request.endswith(".npz") else read_request(request)
    with connected(server) as client:
        where.write(
            lambda: client.closed_form(fields),
            lambda file: file.write(client.closed_form_file(fields, where.name, where.style)),
        )


@takes(where=destination)
def random_matrix(request: RequestFile, *, where: Destination, server: Server = None) -> None:
    """Print a random-matrix law or an index curve, or write it to a file."""
    fields = read_request(request)
    with connected(server) as client:
        where.write(
            lambda: client.random_matrix(fields),
            lambda file: file.write(client.random_matrix_file(fields, where.name, where.style)),
        )


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
