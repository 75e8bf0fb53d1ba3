"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from hessian_spectrum.client.requests import ResultFormat

URL_VARIABLE = "SPECTRUM_URL"

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        "--url",
        envvar=URL_VARIABLE,
        help="Address of the server, or its name in the file of servers; by default the file's default server, or "
        "http://127.0.0.1:8000 without one.",
    ),
]
RequestFile = Annotated[str, typer.Argument(help="JSON file with the request, or - for standard input.")]
ArrayFile = Annotated[
    str, typer.Argument(help="JSON file with the request, npz file with its fields, or - for JSON on standard input.")
]
JobId = Annotated[str, typer.Argument(help="Id of the job, or a beginning of it that no other of your jobs has.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute even if an equal request has a stored result.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File ending in .json, .npz, .csv, .png, .svg or .pdf, or - for standard output."
    ),
]
Format = Annotated[
    ResultFormat | None, typer.Option("--format", help="Format of the output, by default that of the file's ending.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
