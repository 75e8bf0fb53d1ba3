"""Commands for jobs that exist: list, show, fetch the result, open, cancel, delete."""

import webbrowser
from typing import Annotated

import typer

from hessian_spectrum.api_schemas.jobs import Job, JobState
from hessian_spectrum.client.commands.destination import Destination, destination, given
from hessian_spectrum.client.commands.ids import LEAST_TO_REMOVE, complete_job_id
from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import JobId, Server
from hessian_spectrum.client.commands.printing import Cell, Id, Printer, local_time, printer
from hessian_spectrum.client.commands.session import connected, server_named

FOLDED = {"kind": 8, "summary": 8, "progress": 8, "submitted": 10, "tags": 8}
"""With these widths, the list of jobs fits in 80 columns."""

JobIdToRemove = Annotated[
    str,
    typer.Argument(
        help=f"Id of the job, or at least {LEAST_TO_REMOVE} digits of its beginning that none of your other jobs has."
    ),
]


@takes(out=printer)
def show(job_id: JobId, *, out: Printer, server: Server = None) -> None:
    """Print the record of a job."""
    with connected(server) as client:
        out.record(client.job(complete_job_id(client, job_id)))


@takes(out=printer)
def list_jobs(
    *,
    state: Annotated[JobState | None, typer.Option(help="List only jobs in this state.")] = None,
    tag: Annotated[str | None, typer.Option(help="List only jobs with this tag, as name:value.")] = None,
    out: Printer,
    server: Server = None,
) -> None:
    """Print all jobs, newest first: id, state, what they compute, progress, local time of submission and tags."""
    with connected(server) as client:
        jobs = list(client.jobs(state, tag))
    out.table([_row(job) for job in jobs], jobs, empty="There are no such jobs.", folded=FOLDED)


def _row(job: Job) -> dict[str, Cell]:
    reached = job.progress
    return {
        "id": Id(job.id),
        "state": job.state,
        "kind": job.kind,
        "summary": job.summary,
        "progress": f"{reached.phase} {reached.done}/{reached.total}" if job.state == "running" else "",
        "submitted": local_time(job.created_at),
        "tags": " ".join(f"{name}:{value}" for name, value in job.tags.items()),
    }


@takes(where=destination)
def result(
    job_id: JobId,
    *,
    where: Destination,
    num_points: Annotated[int | None, typer.Option(help="Number of points of the smoothed curves of lanczos.")] = None,
    kappa: Annotated[float | None, typer.Option(help="Sharpness of the smoothed density of lanczos.")] = None,
    margin: Annotated[float | None, typer.Option(help="Margin of the grid of the curves of lanczos.")] = None,
    interim: Annotated[
        bool, typer.Option("--interim", help="While a Lanczos job runs, what is known of its spectrum so far.")
    ] = False,
    server: Server = None,
) -> None:
    """Print the result of a job, or write it to a file; only npz has eigenvectors."""
    smoothing = given({"num_points": num_points, "kappa": kappa, "margin": margin})
    with connected(server) as client:
        found = complete_job_id(client, job_id)
        where.write(
            lambda: client.result(found, smoothing, interim=interim),
            lambda file: client.save_result(
                found, file, where.name, smoothing=smoothing, style=where.style, interim=interim
            ),
        )


@takes(out=printer)
def open_page(
    job_id: Annotated[str | None, typer.Argument(help="Id of a job to show, or a beginning of it.")] = None,
    *,
    out: Printer,
    server: Server = None,
) -> None:
    """Open the page of the server in a browser, and print its address."""
    address = server_named(server).url.rstrip("/") + "/"
    if job_id is not None:
        with connected(server) as client:
            address += f"#/jobs/{complete_job_id(client, job_id)}"
    out.lines([address], {"address": address})
    webbrowser.open(address)


@takes(out=printer)
def cancel(job_id: JobIdToRemove, *, out: Printer, server: Server = None) -> None:
    """Cancel a job that is queued or running."""
    with connected(server) as client:
        out.record(client.cancel(complete_job_id(client, job_id, least=LEAST_TO_REMOVE)))


@takes(out=printer)
def delete(job_id: JobIdToRemove, *, out: Printer, server: Server = None) -> None:
    """Delete a job that has ended, and its result."""
    with connected(server) as client:
        found = complete_job_id(client, job_id, least=LEAST_TO_REMOVE)
        client.delete(found)
    out.note({"id": found, "deleted": True})
