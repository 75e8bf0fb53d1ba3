"""Progress bars of jobs and uploads, in a terminal or a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Task as BarTask
from rich.text import Text

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, Job


class _RateColumn(TextColumn):
    """Recent number of units per second."""

    def render(self, task: BarTask) -> Text:
        return Text("" if not task.speed else f"{task.speed:.3g}/s")


class JobProgress:
    """Progress bar of one job, with rate and time left, and a picture above it."""

    def __init__(self, live: Live, bar: Progress, label: str) -> None:
        self._live, self._bar, self._label = live, bar, label
        self._phase: str | None = None
        self._task = bar.add_task(label, total=None, unit="")

    def show(self, job: Job) -> None:
        """Show the record of the job."""
        reached, is_running = job.progress, job.state == "running"
        if reached.phase != self._phase:
            self._bar.reset(self._task, total=None)  # the rate of one phase says nothing about the next
            self._phase = reached.phase
        self._bar.update(
            self._task,
            description=f"{self._label}: {job.state}, {reached.phase}" if is_running else f"{self._label}: {job.state}",
            completed=reached.done,
            total=reached.total or None,
            unit=reached.unit,
        )
        if job.state in ENDED_STATES:
            self._bar.stop_task(self._task)

    def draw(self, picture: RenderableType) -> None:
        """Show a picture above the bar, in place of an earlier one."""
        self._live.update(Group(picture, self._bar), refresh=True)


@contextmanager
def listeners(
    job_id: str, on_change: Callable[[Job], None] | None, *, progress: bool
) -> Iterator[Callable[[Job], None]]:
    """Show the records of a job by a progress bar and pass them to a function, until the end of the block.

    Args:
        job_id: Id of the job.
        on_change: Receives each record; None: there is no such function.
        progress: Whether to show a bar.

    Yields:
        A function to call with each record.
    """
    with job_progress(Console(stderr=True), job_id[:12]) if progress else nullcontext() as bar:

        def notify(job: Job) -> None:
            if bar is not None:
                bar.show(job)
            if on_change is not None:
                on_change(job)

        yield notify


@contextmanager
def files_progress(num_bytes: int, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of uploads until the end of the block.

    Args:
        num_bytes: Size of all files in bytes.
        is_shown: Whether to show a bar.

    Yields:
        A function to call with the size in bytes of each uploaded file.
    """
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as bar:
        task = bar.add_task("upload", total=num_bytes)
        yield lambda done_bytes: bar.advance(task, done_bytes)


@contextmanager
def group_progress(console: Console, num_jobs: int, *, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of several jobs until the end of the block.

    Args:
        console: Where the bar is shown.
        num_jobs: Number of jobs.
        is_shown: Whether to show a bar.

    Yields:
        A function to call with the number of jobs that have ended.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(""),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not is_shown) as bar:
        task = bar.add_task("jobs", total=num_jobs)
        yield lambda num_ended: bar.update(task, completed=num_ended)


@contextmanager
def job_progress(console: Console, label: str) -> Iterator[JobProgress]:
    """Show a progress bar of one job until the end of the block.

    Args:
        console: Where the bar is shown.
        label: Name of the job beside the bar.

    Yields:
        The bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        _RateColumn(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)
    with Live(bar, console=console, refresh_per_second=4) as live:
        yield JobProgress(live, bar, label)
