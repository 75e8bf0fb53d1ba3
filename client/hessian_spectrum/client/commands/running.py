"""Commands that submit jobs and follow them: estimate, submit, run, sweep, watch."""

from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console

from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.client.commands.destination import Destination, destination
from hessian_spectrum.client.commands.ids import complete_job_id
from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import Fresh, JobId, RequestFile, Server
from hessian_spectrum.client.commands.printing import Printer, printer
from hessian_spectrum.client.commands.request_files import parse_json, read_request
from hessian_spectrum.client.commands.session import connected, leaving
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.progress import SHORT_ID, JobProgress, job_progress
from hessian_spectrum.client.retries import InterimCursor
from hessian_spectrum.client.terminal_plots import density_plot


@takes(out=printer)
def submit(request: RequestFile, *, fresh: Fresh = False, out: Printer, server: Server = None) -> None:
    """Submit a job and print its record."""
    body = read_request(request)
    with connected(server) as client:
        out.record(client.submit(body, fresh=fresh))


@takes(out=printer)
def estimate(request: RequestFile, *, out: Printer, server: Server = None) -> None:
    """Print the predicted cost of a job; nothing is queued."""
    body = read_request(request)
    with connected(server) as client:
        out.record(client.estimate(body))


@takes(where=destination)
def run(request: RequestFile, *, where: Destination, fresh: Fresh = False, server: Server = None) -> None:
    """Submit a job, show its progress and fetch its result.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """
    _run(read_request(request), where, fresh=fresh, server=server)


@takes(where=destination)
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
    where: Destination,
    fresh: Fresh = False,
    server: Server = None,
) -> None:
    """Submit a spectrum job for each combination of values of some of its fields, as one job with a table."""
    body = {"kind": "sweep", "base": read_request(request), "over": _axes(setting)}
    _run(body, where, fresh=fresh, server=server)


def _axes(settings: list[str]) -> dict[str, list[Any]]:
    """Return the values of each path in settings such as `method.num_probes=2,4,8`."""
    axes: dict[str, list[Any]] = {}
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path or not text:
            raise typer.BadParameter(f"{setting} is not of the form field=value,value")
        if path in axes:
            raise typer.BadParameter(f"--set names {path} more than once: give all of its values together")
        axes[path] = _values(path, text)
    return axes


def _values(path: str, text: str) -> list[Any]:
    if text.startswith(("[", "{")):
        return _list_of_values(path, text)
    pieces = text.split(",")
    if not all(pieces):
        raise typer.BadParameter(f"{path}={text} has an empty value")
    return [_value(each) for each in pieces]


def _list_of_values(path: str, text: str) -> list[Any]:
    """Return the values of a list in JSON, of which each may itself be a list or an object."""
    try:
        values = parse_json(text)
    except ValueError as error:
        reason = str(error)
        with suppress(ValueError):
            parse_json(f"[{text}]")
            reason = f"write several lists within one, as in {path}=[{text}]"
        raise typer.BadParameter(f"{path}={text} is not a list of values in JSON: {reason}") from None
    if not isinstance(values, list) or not values:
        raise typer.BadParameter(f"{path}={text} is not a list with values, as in {path}=[1,2]")
    return values


def _value(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _run(request: dict[str, Any], where: Destination, *, fresh: bool, server: str | None) -> None:
    with connected(server) as client:
        job = client.submit(request, fresh=fresh)
        with leaving(job.id, server):
            with job_progress(Console(stderr=True), job.id[:SHORT_ID]) as progress:
                job = client.wait(job.id, on_change=progress.show)
            if job.state != "succeeded":
                raise JobFailedError(job)
            where.write(
                lambda: client.result(job.id),
                lambda file: client.save_result(job.id, file, where.name, style=where.style),
            )


@takes(out=printer)
def watch(job_id: JobId, *, out: Printer, server: Server = None) -> None:
    """Follow a job until it ends, then print its record; the exit status is 0 only if it succeeded.

    In a terminal, the density of a Lanczos job is drawn while it is computed.

    If the server stops for a while, the command continues after it returns. Ctrl-C leaves the job running and prints
    how to return to it.
    """  # noqa: DOC501 - the docstring is the help of the command
    with connected(server) as client:
        job_id = complete_job_id(client, job_id)
        console, cursor = Console(stderr=True), InterimCursor()
        with leaving(job_id, server), job_progress(console, job_id[:SHORT_ID]) as progress:
            for job in client.events(job_id):
                progress.show(job)
                has_news = cursor.is_news(job) or (cursor.has_seen_any and job.state == "succeeded")
                if console.is_terminal and has_news:
                    _draw_density(client, job_id, progress, columns=console.width)
        out.record(job := client.job(job_id))
        if job.state != "succeeded":
            raise JobFailedError(job)


def _draw_density(client: SpectrumClient, job_id: str, progress: JobProgress, *, columns: int) -> None:
    with suppress(ProblemResponseError):  # the job has ended meanwhile
        result = client.result(job_id, interim=True)
        if isinstance(result, LanczosResult):
            progress.draw(density_plot(result, columns))
