"""Commands for what has a formula."""

from pathlib import Path

import typer

from hessian_spectrum.client.commands.destination import Destination, cannot_write, destination
from hessian_spectrum.client.commands.options import ArrayFile, Format, Output, RequestFile, Server
from hessian_spectrum.client.commands.picture_options import with_picture_style
from hessian_spectrum.client.commands.printing import print_message
from hessian_spectrum.client.commands.session import connected, read_request
from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.requests import PictureStyle


@with_picture_style
def closed_form(
    request: ArrayFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    server: Server = None,
) -> None:
    """Print the spectrum of a network that has a formula, or write it to a file."""
    where = destination(output, name)
    fields = _read_bytes(request) if request.endswith(".npz") else read_request(request)
    with connected(server) as client:
        if where.is_text_to_read:
            print_message(client.closed_form(fields))
        else:
            _write(where, client.closed_form_file(fields, where.name, style))


@with_picture_style
def random_matrix(
    request: RequestFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    server: Server = None,
) -> None:
    """Print a random-matrix law or an index curve, or write it to a file."""
    where = destination(output, name)
    fields = read_request(request)
    with connected(server) as client:
        if where.is_text_to_read:
            print_message(client.random_matrix(fields))
        else:
            _write(where, client.random_matrix_file(fields, where.name, style))


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(str(error)) from None


def _write(where: Destination, content: bytes) -> None:
    try:
        with output_file(where.target) as file:
            file.write(content)
    except OSError as error:
        raise cannot_write(where, error) from None
