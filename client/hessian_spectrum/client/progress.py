"""Progress bars of jobs and uploads, in a terminal or a notebook."""

import time
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
    TransferSpeedColumn,
)
from rich.progress import Task as BarTask
from rich.text import Text

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, Job

SHORT_ID = 16
"""Length of the beginning of an id that people are shown: the digits of the time of submission."""

_BAR_WIDTH = 12

_WIDE = 120
"""Width of a terminal in characters from which there is place for the name of the units."""


class _RateColumn(TextColumn):
    """Recent number of units per second."""

    def render(self, task: BarTask) -> Text:
        if not task.speed or task.finished:
            return Text("")
        return Text(f"{task.speed:,.0f}/s" if task.speed >= 100 else f"{task.speed:.2g}/s")


class _CountColumn(TextColumn):
    """Number of units that are done, of those that there are; empty while neither is known, and at the end."""

    def render(self, task: BarTask) -> Text:
        if task.total is None or task.fields.get("has_ended"):
            return Text("")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}")


class _TimeColumn(TextColumn):
    """Time since the beginning, and the time left if it is known."""

    def __init__(self) -> None:
        super().__init__("")
        self._began_at = time.monotonic()

    def render(self, task: BarTask) -> Text:
        elapsed = f"{_clock(time.monotonic() - self._began_at)} elapsed"
        left = None if task.finished or task.fields.get("has_ended") else task.time_remaining
        return Text(elapsed if left is None else f"{elapsed}, {_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class JobProgress:
    """Progress bar of one job, with rate and time left, and a picture above it."""

    def __init__(self, live: Live, bar: Progress, label: str) -> None:
        self._live, self._bar, self._label = live, bar, label
        self._phase: str | None = None
        self._task = bar.add_task(label, total=None, unit="")

    def show(self, job: Job) -> None:
        """Show the record of the job."""
        if job.state in ENDED_STATES:
            self._show_end(job)
            return
        reached = job.progress
        if reached.phase != self._phase:
            self._bar.reset(self._task, total=None)  # the rate of one phase says nothing about the next
            self._phase = reached.phase
        self._bar.update(
            self._task,
            description=f"{self._label} {reached.phase if job.state == 'running' else job.state}",
            completed=reached.done,
            total=reached.total or None,
            unit=reached.unit,
        )

    def _show_end(self, job: Job) -> None:
        done = 1 if job.state == "succeeded" else 0
        self._bar.update(
            self._task, description=f"{self._label} {job.state}", completed=done, total=1, unit="", has_ended=True
        )
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
    with job_progress(Console(stderr=True), job_id[:SHORT_ID]) if progress else nullcontext() as bar:

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
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), _TimeColumn())
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
        _TimeColumn(),
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
    unit = (TextColumn("{task.fields[unit]}"),) if console.width >= _WIDE else ()
    label_and_bar = (TextColumn("{task.description}"), BarColumn(_BAR_WIDTH))
    bar = Progress(*label_and_bar, _CountColumn(""), *unit, _RateColumn(""), _TimeColumn(), console=console)
    with Live(bar, console=console, refresh_per_second=4) as live:
        yield JobProgress(live, bar, label)
