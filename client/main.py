"""The `spectrum` command: the server from a shell; requests are JSON files, `-` reads standard input."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console

from api_schemas.artifacts import AnyArtifact, TokenArtifact
from api_schemas.jobs import JobState
from client.errors import SpectrumClientError
from client.exchanges import DEFAULT_URL, ResultFormat, Smoothing
from client.http import SpectrumClient
from client.progress import job_progress

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Eigenvalue spectra from a spectrum server.")

KEY_VARIABLE = "SPECTRUM_API_KEY"
"""Of the API key, which is no option: the arguments of a process can be read by others."""

Url = Annotated[str, typer.Option(envvar="SPECTRUM_URL", help="where the server listens")]
RequestFile = Annotated[str, typer.Argument(help="JSON file with the request, or - for standard input")]
ArrayFile = Annotated[
    str, typer.Argument(help="JSON file with the request, npz file with its fields, or - for JSON on standard input")
]
JobId = Annotated[str, typer.Argument(help="id of the job")]
Fresh = Annotated[bool, typer.Option("--fresh", help="compute, even if a stored result answers the request")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="file ending in .json, .npz, .png or .svg")]

_ARRAYS = (".safetensors", ".npz")
_FORMATS: dict[str, ResultFormat] = {
    ".json": "json",
    ".npz": "npz",
    ".png": "png",
    ".svg": "svg",
}


@app.command("closed-form")
def closed_form(request: ArrayFile, output: Output = None, url: Url = DEFAULT_URL) -> None:
    """Print the spectrum of a network that has a formula, or write it to a file."""
    fields = _read_bytes(request) if request.endswith(".npz") else _read(request)
    with _client(url) as client:
        if output is None:
            _print(client.closed_form(fields))
        else:
            output.write_bytes(client.closed_form_file(fields, _format(output)))


@app.command("random-matrix")
def random_matrix(request: RequestFile, output: Output = None, url: Url = DEFAULT_URL) -> None:
    """Print a random-matrix law or an index curve, or write it to a file."""
    fields = _read(request)
    with _client(url) as client:
        if output is None:
            _print(client.random_matrix(fields))
        else:
            output.write_bytes(client.random_matrix_file(fields, _format(output)))


@app.command()
def submit(request: RequestFile, fresh: Fresh = False, url: Url = DEFAULT_URL) -> None:
    """Submit a job and print its record."""
    with _client(url) as client:
        _print(client.submit(_read(request), fresh=fresh))


@app.command()
def estimate(request: RequestFile, url: Url = DEFAULT_URL) -> None:
    """Print what a job would take; nothing is queued."""
    with _client(url) as client:
        _print(client.estimate(_read(request)))


@app.command()
def run(request: RequestFile, output: Output = None, fresh: Fresh = False, url: Url = DEFAULT_URL) -> None:
    """Submit a job, show its progress and fetch its result."""
    if output is not None:
        _format(output)  # before the job takes its time
    with _client(url) as client:
        job = client.submit(_read(request), fresh=fresh)
        with job_progress(Console(stderr=True), job.id) as show:
            job = client.wait(job.id, on_change=show)
        if job.state != "succeeded":
            _print(job)
            raise typer.Exit(1)
        _fetch(client, job.id, output, None)


@app.command()
def models(url: Url = DEFAULT_URL) -> None:
    """Print kind, number of parameters, digest and state of every checkpoint, or why it cannot be loaded."""
    with _client(url) as client:
        for found in client.models():
            count = "unknown" if found.num_parameters is None else f"{found.num_parameters:,}"
            what = found.problem or f"{found.kind}  {count} parameters  {found.sha256}  {found.state}"
            typer.echo(f"{found.name}  {what}")


@app.command()
def job(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Print how a job stands."""
    with _client(url) as client:
        _print(client.job(job_id))


@app.command()
def watch(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Follow a job until it ends, then print how it stands; fails unless it succeeded."""
    with _client(url) as client:
        with job_progress(Console(stderr=True), job_id) as show:
            for found in client.events(job_id):
                show(found)
        _print(found := client.job(job_id))
        if found.state != "succeeded":
            raise typer.Exit(1)


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="only jobs in this state")] = None,
    tag: Annotated[str | None, typer.Option(help="only jobs with this tag, name:value")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Print id, state, kind and time of every job, newest first."""
    wanted: JobState | None = state  # type: ignore[assignment]
    with _client(url) as client:
        for found in client.jobs(wanted, tag):
            typer.echo(f"{found.id}  {found.state:<10}  {found.kind}  {found.created_at:%Y-%m-%d %H:%M:%S}")


@app.command()
def result(
    job_id: JobId,
    output: Output = None,
    name: Annotated[ResultFormat | None, typer.Option("--format", help="instead of the end of the file's name")] = None,
    num_points: Annotated[int | None, typer.Option(help="of the curves of lanczos, smoothed anew")] = None,
    kappa: Annotated[float | None, typer.Option(help="sharpness of the density of lanczos, smoothed anew")] = None,
    margin: Annotated[float | None, typer.Option(help="of the grid of lanczos, smoothed anew")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the result of a job, or write it to a file; eigenvectors are in npz alone."""
    wanted = {"num_points": num_points, "kappa": kappa, "margin": margin}
    smoothing = {field: value for field, value in wanted.items() if value is not None}
    with _client(url) as client:
        _fetch(client, job_id, output, name, smoothing)


@app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Cancel a job."""
    with _client(url) as client:
        _print(client.cancel(job_id))


@app.command()
def delete(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Forget a job that ended, and its result."""
    with _client(url) as client:
        client.delete(job_id)


@app.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(
            help="tokens: nanoGPT's .bin or a .npy array of integers; weights or data: .safetensors or .npz",
            dir_okay=False,
        ),
    ],
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a file of tokens or arrays and print what it holds; jobs name it by its id."""
    with _client(url) as client:
        try:
            _print(client.upload_arrays(file) if file.suffix in _ARRAYS else client.upload_tokens(file))
        except OSError as error:
            raise typer.BadParameter(str(error)) from None


@app.command("artifacts")
def list_artifacts(url: Url = DEFAULT_URL) -> None:
    """Print id, time, number of tokens and the largest, or names and shapes of arrays, of every file, newest first."""
    with _client(url) as client:
        for found in client.artifacts():
            typer.echo(f"{found.id}  {found.created_at:%Y-%m-%d %H:%M:%S}  {_contents(found)}")


@app.command("delete-artifact")
def delete_artifact(
    artifact_id: Annotated[str, typer.Argument(help="id of the uploaded file")], url: Url = DEFAULT_URL
) -> None:
    """Delete an uploaded file."""
    with _client(url) as client:
        client.delete_artifact(artifact_id)


def _contents(artifact: AnyArtifact) -> str:
    if isinstance(artifact, TokenArtifact):
        return f"{artifact.num_tokens} tokens up to {artifact.largest_token}"
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
    client: SpectrumClient,
    job_id: str,
    output: Path | None,
    name: ResultFormat | None,
    smoothing: Smoothing | None = None,
) -> None:
    if output is not None:
        try:
            client.save_result(job_id, output, name or _format(output), smoothing)
        except OSError as error:
            raise typer.BadParameter(str(error)) from None
    elif name in (None, "json"):
        _print(client.result(job_id, smoothing))
    else:
        raise typer.BadParameter(f"{name} goes to a file: give one with --output")


def _format(output: Path) -> ResultFormat:
    if output.suffix not in _FORMATS:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(_FORMATS)}")
    return _FORMATS[output.suffix]
