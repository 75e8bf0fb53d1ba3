"""Commands for jobs: submit, follow, list, show, compare, cancel, delete."""

import json
import webbrowser
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console

from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.jobs import AnyJobResult, Job, JobState
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.client.commands.destination import Destination, cannot_write, destination
from hessian_spectrum.client.commands.options import Format, Fresh, JobId, Json, Output, RequestFile, Server
from hessian_spectrum.client.commands.picture_options import given, with_picture_style
from hessian_spectrum.client.commands.printing import Cell, print_message, print_messages, print_table
from hessian_spectrum.client.commands.session import complete_id, connected, leaving, read_request, server_named
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.progress import JobProgress, job_progress
from hessian_spectrum.client.requests import PictureStyle, Smoothing
from hessian_spectrum.client.retries import InterimCursor
from hessian_spectrum.client.terminal_plots import density_plot


def submit(request: RequestFile, fresh: Fresh = False, server: Server = None) -> None:
    """Submit a job and print its record."""
    with connected(server) as client:
        print_message(client.submit(read_request(request), fresh=fresh))


def estimate(request: RequestFile, server: Server = None) -> None:
    """Print the predicted cost of a job; nothing is queued."""
    with connected(server) as client:
        print_message(client.estimate(read_request(request)))


@with_picture_style
def run(
    request: RequestFile,
    *,
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    fresh: Fresh = False,
    server: Server = None,
) -> None:
    """Submit a job, show its progress and fetch its result.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """
    where = destination(output, name)  # before the job runs
    _run(read_request(request), where, style=style, fresh=fresh, server=server)


@with_picture_style
def sweep(
    request: RequestFile,
    *,
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Field to vary and its values, as in method.num_probes=2,4,8 or model.widths=[[8,4],[8,8,4]]; may be "
            "repeated.",
        ),
    ],
    output: Output = None,
    name: Format = None,
    style: PictureStyle,
    fresh: Fresh = False,
    server: Server = None,
) -> None:
    """Submit a spectrum job for each combination of values of some of its fields, as one job with a table."""
    where = destination(output, name)
    over = dict(_axis(each) for each in setting)
    body = {"kind": "sweep", "base": read_request(request), "over": over}
    _run(body, where, style=style, fresh=fresh, server=server)


def _axis(setting: str) -> tuple[str, list[Any]]:
    """Return the path and the values of a setting such as `method.num_probes=2,4,8`."""
    path, separator, text = setting.partition("=")
    if not separator or not path or not text:
        raise typer.BadParameter(f"{setting} is not of the form field=value,value")
    whole = _value(text)
    return path, whole if isinstance(whole, list) else [_value(each) for each in text.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _run(request: dict[str, Any], where: Destination, *, style: PictureStyle, fresh: bool, server: str | None) -> None:
    with connected(server) as client:
        job = client.submit(request, fresh=fresh)
        with leaving(job.id, server):
            with job_progress(Console(stderr=True), job.id) as progress:
                job = client.wait(job.id, on_change=progress.show)
            if job.state != "succeeded":
                print_message(job)
                raise typer.Exit(1)
            _fetch(client, job.id, where, style=style)


def show(job_id: JobId, server: Server = None) -> None:
    """Print the record of a job."""
    with connected(server) as client:
        print_message(client.job(complete_id(client, job_id)))


def watch(job_id: JobId, server: Server = None) -> None:
    """Follow a job until it ends, then print its record; the exit status is 0 only if it succeeded.

    In a terminal, the density of a Lanczos job is drawn while it is computed.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """  # noqa: DOC501 - the docstring is the help of the command
    with connected(server) as client:
        job_id = complete_id(client, job_id)
        console, cursor = Console(stderr=True), InterimCursor()
        with leaving(job_id, server), job_progress(console, job_id) as progress:
            for job in client.events(job_id):
                progress.show(job)
                has_news = cursor.is_news(job) or (cursor.has_seen_any and job.state == "succeeded")
                if console.is_terminal and has_news:
                    _draw_density(client, job_id, progress, columns=console.width)
        print_message(job := client.job(job_id))
        if job.state != "succeeded":
            raise typer.Exit(1)


def _draw_density(client: SpectrumClient, job_id: str, progress: JobProgress, *, columns: int) -> None:
    with suppress(ProblemResponseError):  # the job has ended meanwhile
        result = client.result(job_id, interim=True)
        if isinstance(result, LanczosResult):
            progress.draw(density_plot(result, columns))


def list_jobs(
    state: Annotated[str | None, typer.Option(help="List only jobs in this state.")] = None,
    tag: Annotated[str | None, typer.Option(help="List only jobs with this tag, as name:value.")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Print all jobs, newest first: id, state, what they compute, progress, time of submission and tags."""
    job_state: JobState | None = state  # type: ignore[assignment]
    with connected(server) as client:
        jobs = list(client.jobs(job_state, tag))
    if as_json:
        print_messages(jobs)
    else:
        print_table([_row(job) for job in jobs], empty="There are no such jobs.")


def _row(job: Job) -> dict[str, Cell]:
    reached = job.progress
    return {
        "id": job.id,
        "state": job.state,
        "kind": job.kind,
        "summary": job.summary,
        "progress": f"{reached.phase} {reached.done}/{reached.total}" if job.state == "running" else "",
        "submitted": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        "tags": " ".join(f"{name}:{value}" for name, value in job.tags.items()),
    }


@with_picture_style
def result(
    job_id: JobId,
    *,
    output: Output = None,
    name: Format = None,
    num_points: Annotated[int | None, typer.Option(help="Number of points of the smoothed curves of lanczos.")] = None,
    kappa: Annotated[float | None, typer.Option(help="Sharpness of the smoothed density of lanczos.")] = None,
    margin: Annotated[float | None, typer.Option(help="Margin of the grid of the curves of lanczos.")] = None,
    interim: Annotated[
        bool, typer.Option("--interim", help="While a Lanczos job runs, what is known of its spectrum so far.")
    ] = False,
    style: PictureStyle,
    server: Server = None,
) -> None:
    """Print the result of a job, or write it to a file; only npz has eigenvectors."""
    where = destination(output, name)
    smoothing = given({"num_points": num_points, "kappa": kappa, "margin": margin})
    with connected(server) as client:
        _fetch(client, complete_id(client, job_id), where, smoothing=smoothing, style=style, interim=interim)


def compare(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of jobs, or beginnings of them.")],
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Print the main numbers of the results of several jobs side by side, with their 95 % intervals."""
    with connected(server) as client:
        ids = [complete_id(client, each) for each in job_ids]
        columns = [_numbers(client.result(job_id)) for job_id in ids]
    names = dict.fromkeys(name for column in columns for name in column)
    if as_json:
        typer.echo(json.dumps(dict(zip(ids, columns, strict=True)), indent=2))
        return
    rows = [
        {"quantity": name} | {job_id: _cell(numbers.get(name)) for job_id, numbers in zip(ids, columns, strict=True)}
        for name in names
    ]
    print_table(rows, empty="These results have no single numbers.")


def _numbers(result: AnyJobResult) -> dict[str, Any]:
    """Return the single numbers of a result by name: numbers, or objects with an interval."""
    if not isinstance(result, MethodResult):
        return {}
    numbers: dict[str, Any] = {
        name: {"value": each.value, "lower": each.lower, "upper": each.upper}
        for name, each in headlines(result).items()
    }
    return {"parameters": result.num_parameters, "loss": result.loss} | numbers


def _cell(number: Any) -> str:
    if number is None:
        return "-"
    if isinstance(number, dict):
        lower, upper = ("?" if end is None else f"{end:.6g}" for end in (number["lower"], number["upper"]))
        return f"{number['value']:.6g} [{lower}, {upper}]"
    return f"{number:.6g}" if isinstance(number, float) else f"{number:,}"


def open_page(
    job_id: Annotated[str | None, typer.Argument(help="Id of a job to show, or a beginning of it.")] = None,
    server: Server = None,
) -> None:
    """Open the page of the server in a browser, and print its address."""
    address = server_named(server).url.rstrip("/") + "/"
    if job_id is not None:
        with connected(server) as client:
            address += f"#/jobs/{complete_id(client, job_id)}"
    typer.echo(address)
    webbrowser.open(address)


def cancel(job_id: JobId, server: Server = None) -> None:
    """Cancel a job that is queued or running."""
    with connected(server) as client:
        print_message(client.cancel(complete_id(client, job_id)))


def delete(job_id: JobId, server: Server = None) -> None:
    """Delete a job that has ended, and its result."""
    with connected(server) as client:
        client.delete(complete_id(client, job_id))


def _fetch(
    client: SpectrumClient,
    job_id: str,
    where: Destination,
    *,
    smoothing: Smoothing | None = None,
    style: PictureStyle,
    interim: bool = False,
) -> None:
    if where.is_text_to_read:
        print_message(client.result(job_id, smoothing, interim=interim))
        return
    try:
        client.save_result(job_id, where.target, where.name, smoothing=smoothing, style=style, interim=interim)
    except OSError as error:
        raise cannot_write(where, error) from None
