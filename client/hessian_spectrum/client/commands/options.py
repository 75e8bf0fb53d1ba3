"""Arguments and options that several commands share."""

from typing import Annotated

import typer

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
JobId = Annotated[str, typer.Argument(help="Id of the job, or a beginning of it that none of your other jobs has.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute even if an equal request has a stored result.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
