"""What progress bars show in terminals of different widths."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from hessian_spectrum.api_schemas.jobs import Job, JobState, Links, Progress
from hessian_spectrum.client.progress import SHORT_ID, group_progress, job_progress

ID = "0006617f73a1b2c3" + 16 * "d"


def job(state: JobState, phase: str, done: int, total: int, unit: str) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=ID, kind="spectrum", state=state, attempt=1, created_at=now, started_at=now, finished_at=None, error=None,
        progress=Progress(phase=phase, done=done, total=total, unit=unit), tags={},
        links=Links(self="", result="", events="", cancel=""),
    )  # fmt: skip


RUNNING = job("running", "linearisation", 12_400, 48_400, "matrix-vector products")


def frames(width: int, *records: Job) -> Iterator[str]:
    """What a terminal shows after each record."""
    for number in range(1, len(records) + 1):
        text = io.StringIO()
        with job_progress(Console(file=text, width=width), ID[:SHORT_ID]) as progress:
            for each in records[:number]:
                progress.show(each)
        yield text.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [80, 140])
def test_everything_is_in_one_line(width: int) -> None:
    for shown in frames(width, job("queued", "queued", 0, 0, ""), RUNNING):
        assert len(shown.splitlines()) == 1
        assert ID[:SHORT_ID] in shown
        assert ID not in shown
        assert "elapsed" in shown
        assert "…" not in shown
    assert "linearisation" in shown
    assert "12,400/48,400" in shown
    assert ("matrix-vector products" in shown) == (width > 100)


def test_rate_and_time_left_have_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.progress.Task.speed", property(lambda _: 48_400.0))
    monkeypatch.setattr("rich.progress.Task.time_remaining", property(lambda _: 3599.0))
    (shown,) = frames(80, RUNNING)
    assert len(shown.splitlines()) == 1
    assert "12,400/48,400 48,400/s" in shown
    assert "elapsed, 59:59 left" in shown


@pytest.mark.parametrize("last", [("bytes", 48_400, 0), ("", 0, 0), ("matrix-vector products", 3, 400)])
@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_at_the_end_no_count_is_left(state: Any, last: tuple[str, int, int]) -> None:
    unit, done, total = last
    *_, shown = frames(80, RUNNING, job(state, "products", done, total, unit))
    assert f"{ID[:SHORT_ID]} {state}" in shown
    assert "/" not in shown
    assert "?" not in shown
    assert "…" not in shown
    assert "left" not in shown


def test_a_group_has_labels_too() -> None:
    text = io.StringIO()
    with group_progress(Console(file=text, width=80), 3) as show:
        show(3)
    assert "3/3" in text.getvalue()
    assert "elapsed" in text.getvalue()
    assert "left" not in text.getvalue()
