"""Progress bar of a job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hessian_spectrum.api_schemas.jobs import Job


@contextmanager
def job_progress(console: Console, label: str) -> Iterator[Callable[[Job], None]]:
    """Progress bar of one job; call the yielded function with each record of the job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=None, unit="")

        def show(job: Job) -> None:
            reached = job.progress
            progress.update(
                task,
                description=f"{label}: {job.state}, {reached.phase}"
                if job.state == "running"
                else f"{label}: {job.state}",
                completed=reached.done,
                total=reached.total or None,
                unit=reached.unit,
            )

        yield show
