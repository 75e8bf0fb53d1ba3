"""Progress bar of a job, in a terminal or a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Task as BarTask
from rich.text import Text

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, Job


class _RateColumn(TextColumn):
    """Units that were finished per second lately."""

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
def job_progress(console: Console, label: str) -> Iterator[JobProgress]:
    """Show a progress bar until the end of the block."""
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
