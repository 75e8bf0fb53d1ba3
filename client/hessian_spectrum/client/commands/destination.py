"""The destination, the format and the style of a result on the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from hessian_spectrum.client.commands.options import Json
from hessian_spectrum.client.commands.writing import is_terminal, opened, output_path, write_text
from hessian_spectrum.client.requests import PictureStyle, ResultFormat

_FORMATS: dict[str, ResultFormat] = {
    ".json": "json",
    ".npz": "npz",
    ".csv": "csv",
    ".png": "png",
    ".svg": "svg",
    ".pdf": "pdf",
}
_PICTURES = ("png", "svg", "pdf")
_FIELDS = {"width": "width_inches", "height": "height_inches"}
"""Names of the interface that differ from those of the options."""

OPTIONS_OF_FIELDS = {name: option for option, name in _FIELDS.items()}

T = TypeVar("T")


@dataclass(frozen=True)
class Destination:
    """Where a result goes.

    Attributes:
        path: Path of the output; None for standard output.
        name: Format of the output.
        style: Settings of a picture that differ from the default.
    """

    path: Path | None
    name: ResultFormat
    style: PictureStyle = field(default_factory=dict)

    def write(self, read: Callable[[], BaseModel], save: Callable[[Any], None]) -> None:
        """Print a result for a person to read, or write it as a file.

        Args:
            read: Returns the result.
            save: Writes the result in the format to an open file.
        """
        if self.path is None and self.name == "json":
            write_text(None, read().model_dump_json(indent=2))
            return
        with opened(self.path) as file:
            save(file)


def destination(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File ending in .json, .npz, .csv, .png, .svg or .pdf, or - for standard output."
        ),
    ] = None,
    name: Annotated[
        ResultFormat | None,
        typer.Option("--format", help="Format of the output, by default that of the file's ending."),
    ] = None,
    as_json: Json = False,
    width: Annotated[float | None, typer.Option(help="Width of a picture in inches.")] = None,
    height: Annotated[float | None, typer.Option(help="Height of a picture in inches.")] = None,
    dpi: Annotated[int | None, typer.Option(help="Pixels per inch of a PNG picture.")] = None,
    title: Annotated[
        str | None, typer.Option(help="Title of a picture instead of its own; an empty one removes it.")
    ] = None,
) -> Destination:
    """Interpret the options of commands that fetch a result, and check them before anything is computed.

    Returns:
        The destination.

    Raises:
        BadParameter: If the format is not known, options contradict each other or have no effect, or the destination
            cannot be written.
    """
    if as_json and name not in (None, "json"):
        raise typer.BadParameter(f"--json contradicts --format {name}")
    found = _format("json" if as_json else name, output)
    style: dict[str, str | int | float] = given({"width": width, "height": height, "dpi": dpi, "title": title})
    _check_style(style, found)
    path = output_path(output)
    if output is None and found != "json" and is_terminal(path):
        raise typer.BadParameter(
            f"{found} is not written to a terminal: name a file with --output, or use --output - to do so anyway"
        )
    return Destination(path, found, {_FIELDS.get(option, option): value for option, value in style.items()})


def _format(name: ResultFormat | None, output: Path | None) -> ResultFormat:
    if output is None or output == Path("-"):
        return name or "json"
    of_file = _FORMATS.get(output.suffix.lower())
    if name is not None and of_file not in (None, name):
        raise typer.BadParameter(f"{output} does not end like a file of the format {name}")
    found = name or of_file
    if found is None:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(_FORMATS)}: choose a format with --format")
    return found


def _check_style(style: Mapping[str, Any], name: ResultFormat) -> None:
    if style and name not in _PICTURES:
        options = ", ".join(f"--{option}" for option in style)
        raise typer.BadParameter(f"{options} needs a picture as the output: choose --format png, svg or pdf")
    if "dpi" in style and name != "png":
        raise typer.BadParameter(f"--dpi is for PNG pictures, not for {name}")


def given(options: Mapping[str, T | None]) -> dict[str, T]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}
