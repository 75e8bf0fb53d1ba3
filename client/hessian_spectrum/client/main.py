"""The `spectrum` command: access to the server from a shell. Requests are JSON files; `-` reads standard input."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ProgramArtifact, TokenArtifact
from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.client.destination import Destination, cannot_write, destination
from hessian_spectrum.client.errors import ServerUnreachableError, SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.picture_options import given, with_picture_style
from hessian_spectrum.client.progress import job_progress
from hessian_spectrum.client.requests import DEFAULT_URL, PictureStyle, ResultFormat, Smoothing
from hessian_spectrum.client.version_option import VersionOption

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Eigenvalue spectra from a spectrum server.")


@app.callback()
def options(version: VersionOption = False) -> None:
    """Eigenvalue spectra from a spectrum server."""


track = typer.Typer(no_args_is_help=True, help="Send what tracked training runs have left on disk.")
app.add_typer(track, name="track")

KEY_VARIABLE = "SPECTRUM_API_KEY"
"""Environment variable of the API key, not a command-line option, because others can see arguments of a process."""

URL_VARIABLE = "SPECTRUM_URL"

Url = Annotated[str, typer.Option(envvar=URL_VARIABLE, help="Address at which the server listens.")]
RequestFile = Annotated[str, typer.Argument(help="JSON file with the request, or - for standard input.")]
ArrayFile = Annotated[
    str, typer.Argument(help="JSON file with the request, npz file with its fields, or - for JSON on standard input.")
]
JobId = Annotated[str, typer.Argument(help="Id of the job.")]
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

_UPLOADS: dict[str, Callable[[SpectrumClient, Path], AnyArtifact]] = {
    ".bin": SpectrumClient.upload_tokens,
    ".npy": SpectrumClient.upload_tokens,
    ".safetensors": SpectrumClient.upload_arrays,
    ".npz": SpectrumClient.upload_arrays,
    ".pt2": SpectrumClient.upload_program,
    ".onnx": SpectrumClient.upload_program,
}
"""How a file is uploaded, by the ending of its name."""

_INTERRUPTED = 130
"""Exit code that shells use for a program ended by Ctrl-C."""


@app.command("closed-form")
@with_picture_style
def closed_form(
    request: ArrayFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the spectrum of a network that has a formula, or write it to a file."""
    where = destination(output, name)
    fields = _read_bytes(request) if request.endswith(".npz") else _read(request)
    with _client(url) as client:
        if where.is_text_to_read:
            _print(client.closed_form(fields))
        else:
            _write(where, client.closed_form_file(fields, where.name, style))


@app.command("random-matrix")
@with_picture_style
def random_matrix(
    request: RequestFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a random-matrix law or an index curve, or write it to a file."""
    where = destination(output, name)
    fields = _read(request)
    with _client(url) as client:
        if where.is_text_to_read:
            _print(client.random_matrix(fields))
        else:
            _write(where, client.random_matrix_file(fields, where.name, style))


@app.command()
def submit(request: RequestFile, fresh: Fresh = False, url: Url = DEFAULT_URL) -> None:
    """Submit a job and print its record."""
    with _client(url) as client:
        _print(client.submit(_read(request), fresh=fresh))


@app.command()
def estimate(request: RequestFile, url: Url = DEFAULT_URL) -> None:
    """Print the predicted cost of a job; nothing is queued."""
    with _client(url) as client:
        _print(client.estimate(_read(request)))


@app.command()
@with_picture_style
def run(
    request: RequestFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    fresh: Fresh = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job, show its progress and fetch its result.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """  # noqa: DOC501 - the docstring is the help of the command
    where = destination(output, name)  # before the job runs
    with _client(url) as client:
        job = client.submit(_read(request), fresh=fresh)
        with _leaving(job.id, url):
            with job_progress(Console(stderr=True), job.id) as show:
                job = client.wait(job.id, on_change=show)
            if job.state != "succeeded":
                _print(job)
                raise typer.Exit(1)
            _fetch(client, job.id, where, style=style)


@app.command()
def models(url: Url = DEFAULT_URL) -> None:
    """Print kind, number of parameters, digest and state of every checkpoint, or why it cannot be loaded."""
    with _client(url) as client:
        for model in client.models():
            count = "unknown" if model.num_parameters is None else f"{model.num_parameters:,}"
            what = model.problem or f"{model.kind}  {count} parameters  {model.sha256}  {model.state}"
            typer.echo(f"{model.name}  {what}")


@app.command()
def job(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Print the record of a job."""
    with _client(url) as client:
        _print(client.job(job_id))


@app.command()
def watch(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Follow a job until it ends, then print its record; the exit status is 0 only if it succeeded.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """  # noqa: DOC501 - the docstring is the help of the command
    with _client(url) as client:
        with _leaving(job_id, url), job_progress(Console(stderr=True), job_id) as show:
            for job in client.events(job_id):
                show(job)
        _print(job := client.job(job_id))
        if job.state != "succeeded":
            raise typer.Exit(1)


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="List only jobs in this state.")] = None,
    tag: Annotated[str | None, typer.Option(help="List only jobs with this tag, as name:value.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Print id, state, kind and time of every job, newest first."""
    job_state: JobState | None = state  # type: ignore[assignment]
    with _client(url) as client:
        for job in client.jobs(job_state, tag):
            typer.echo(f"{job.id}  {job.state:<10}  {job.kind}  {job.created_at:%Y-%m-%d %H:%M:%S}")


@app.command()
@with_picture_style
def result(
    job_id: JobId,
    *,
    output: Output = None,
    name: Format = None,
    num_points: Annotated[int | None, typer.Option(help="Number of points of the smoothed curves of lanczos.")] = None,
    kappa: Annotated[float | None, typer.Option(help="Sharpness of the smoothed density of lanczos.")] = None,
    margin: Annotated[float | None, typer.Option(help="Margin of the grid of the curves of lanczos.")] = None,
    style: PictureStyle,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the result of a job, or write it to a file; only npz has eigenvectors."""
    where = destination(output, name)
    smoothing = given({"num_points": num_points, "kappa": kappa, "margin": margin})
    with _client(url) as client:
        _fetch(client, job_id, where, smoothing=smoothing, style=style)


@app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Cancel a job that is queued or running."""
    with _client(url) as client:
        _print(client.cancel(job_id))


@app.command()
def delete(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Delete a job that has ended, and its result."""
    with _client(url) as client:
        client.delete(job_id)


@app.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(
            help="Tokens as nanoGPT's .bin or a .npy array of integers; weights or data as .safetensors or .npz; one "
            "array of data as .npy with --name; networks as .pt2 of torch.export or as .onnx.",
            dir_okay=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the array in a .npy file of data, such as x; without it, the file holds tokens."),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a file of tokens or arrays, or a network, and print its description; jobs refer to it by its id.

    The ending of the file's name says what it holds.
    """  # noqa: DOC501 - the docstring is the help of the command
    send = _UPLOADS.get(file.suffix.lower())
    if send is None:
        raise typer.BadParameter(f"{file.name} must end in {', '.join(_UPLOADS)}, which says what the file holds")
    if name is not None and file.suffix.lower() != ".npy":
        raise typer.BadParameter("--name is for a .npy file; arrays in other files have their own names")
    with _client(url) as client:
        try:
            _print(send(client, file) if name is None else client.upload_arrays(file, name=name))
        except OSError as error:
            raise typer.BadParameter(str(error)) from None


@app.command("artifacts")
def list_artifacts(url: Url = DEFAULT_URL) -> None:
    """Print id, time and contents of every uploaded file, newest first."""
    with _client(url) as client:
        for artifact in client.artifacts():
            typer.echo(f"{artifact.id}  {artifact.created_at:%Y-%m-%d %H:%M:%S}  {_contents(artifact)}")


@app.command("delete-artifact")
def delete_artifact(
    artifact_id: Annotated[str, typer.Argument(help="Id of the uploaded file.")], url: Url = DEFAULT_URL
) -> None:
    """Delete an uploaded file."""
    with _client(url) as client:
        client.delete_artifact(artifact_id)


@track.command()
def send(
    directory: Annotated[
        Path, typer.Argument(help="Directory of a tracked run, or a directory of several.", file_okay=False)
    ],
    url: Url = DEFAULT_URL,
) -> None:
    """Send the points that tracked runs have left on disk, and print how many each run had."""
    with _client(url) as client:
        for run in client.send_tracked(directory):
            typer.echo(f"{run.name}  {run.num_points} points")


def _contents(artifact: AnyArtifact) -> str:
    if isinstance(artifact, TokenArtifact):
        return f"{artifact.num_tokens} tokens up to {artifact.largest_token}"
    if isinstance(artifact, ProgramArtifact):
        return f"program of {artifact.num_calls} calls with {len(artifact.parameters)} parameters"
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in artifact.arrays.items())


@contextmanager
def _client(url: str) -> Iterator[SpectrumClient]:
    try:
        with SpectrumClient(url, os.environ.get(KEY_VARIABLE)) as client:
            yield client
    except SpectrumClientError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _read(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
        request = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(request, dict):
        raise typer.BadParameter("the request must be a JSON object")
    return request


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(str(error)) from None


def _print(message: BaseModel) -> None:
    typer.echo(message.model_dump_json(indent=2))


def _fetch(
    client: SpectrumClient, job_id: str, where: Destination, *, smoothing: Smoothing | None = None, style: PictureStyle
) -> None:
    if where.is_text_to_read:
        _print(client.result(job_id, smoothing))
        return
    try:
        client.save_result(job_id, where.target, where.name, smoothing=smoothing, style=style)
    except OSError as error:
        raise cannot_write(where, error) from None


def _write(where: Destination, content: bytes) -> None:
    try:
        with output_file(where.target) as file:
            file.write(content)
    except OSError as error:
        raise cannot_write(where, error) from None


@contextmanager
def _leaving(job_id: str, url: str) -> Iterator[None]:
    """Print how to return to a job when following it ends early."""
    options = "" if url in (DEFAULT_URL, os.environ.get(URL_VARIABLE)) else f" --url {url}"
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
