"""Whoever follows a job goes on after the server was away, and is told how to come back."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource

from hessian_spectrum.api_schemas.jobs import Job, Links, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.client import retries
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import (
    ProblemResponseError,
    ServerOutageError,
    ServerUnreachableError,
    SpectrumClientError,
)
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.retries import EventCursor, OutageRetry
from tests.client.outages import Passage

ENDLESS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
    "method": {"kind": "exact"},
    "train": {"num_steps": 10_000_000, "learning_rate": 0.01, "batch_size": 1},
}
SPECTRUM = Path(sys.executable).with_name("spectrum")

NOW = datetime.now(UTC)


@pytest.fixture
def passage(server: Any) -> Iterator[Passage]:
    passage = Passage(server.url)
    yield passage
    passage.end()


@pytest.fixture
def job_id(client: SpectrumClient) -> Iterator[str]:
    """Of a job that does not end by itself."""
    job = client.submit(ENDLESS, fresh=True)
    yield job.id
    client.cancel(job.id)
    client.wait(job.id, 30)


class Disturbance:
    """Takes the server away for a moment when a job is first heard of, and ends the job when it is back."""

    def __init__(self, passage: Passage, client: SpectrumClient) -> None:
        self._passage, self._client, self._is_over = passage, client, False

    def __call__(self, job: Job) -> None:
        if not self._is_over:
            self._is_over = True
            self._passage.close()
            threading.Timer(1.5, self._end, (job.id,)).start()

    def _end(self, job_id: str) -> None:
        self._client.cancel(job_id)
        self._passage.open()


def test_waiting_goes_on(
    passage: Passage, client: SpectrumClient, job_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SpectrumClient(passage.url, outage_seconds=60) as follower, caplog.at_level(logging.WARNING):
        job = follower.wait(job_id, on_change=Disturbance(passage, client))
    assert job.state == "cancelled"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "hessian_spectrum.client.retries"]
    assert line.startswith(f"{passage.url} does not answer")
    assert "trying again for up to 60 s" in line


def test_events_go_on(passage: Passage, client: SpectrumClient, job_id: str) -> None:
    disturb, states = Disturbance(passage, client), []
    with SpectrumClient(passage.url) as follower:
        for job in follower.events(job_id):
            states.append(job.state)
            disturb(job)
    assert states[-1] == "cancelled"


def test_both_go_on_in_the_async_client(passage: Passage, client: SpectrumClient, job_id: str) -> None:
    async def follow() -> tuple[Job, list[str]]:
        async with AsyncSpectrumClient(passage.url) as follower:
            disturb, states = Disturbance(passage, client), []
            await follower.job(job_id)
            waiting = asyncio.create_task(follower.wait(job_id))
            async for job in follower.events(job_id):
                states.append(job.state)
                disturb(job)
            return await waiting, states

    job, states = asyncio.run(asyncio.wait_for(follow(), 60))
    assert job.state == states[-1] == "cancelled"


def test_the_command_goes_on(passage: Passage, client: SpectrumClient, job_id: str) -> None:
    command = [SPECTRUM, "watch", job_id, "--url", passage.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert passage.has_answered.wait(60)
        time.sleep(0.5)
        passage.close()
        time.sleep(2)
        client.cancel(job_id)
        passage.open()
        output, errors = process.communicate(timeout=60)
    assert json.loads(output)["state"] == "cancelled", errors
    assert "trying again for up to 600 s" in errors


def test_patience_ends(passage: Passage, job_id: str) -> None:
    with SpectrumClient(passage.url, outage_seconds=0.5) as follower:
        follower.job(job_id)
        passage.close()
        with pytest.raises(ServerOutageError, match=f"job {job_id} for .* does not answer"):
            follower.wait(job_id)
        with pytest.raises(ServerOutageError):
            list(follower.events(job_id))
    with SpectrumClient(passage.url, outage_seconds=600) as follower:
        follower._has_answered = True
        with pytest.raises(ServerOutageError):
            follower.wait(job_id, timeout_seconds=0.2)


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    with SpectrumClient("http://127.0.0.1:1") as nowhere:
        for follow in (nowhere.wait, lambda job_id: list(nowhere.events(job_id))):
            with pytest.raises(ServerUnreachableError) as caught:
                follow("0" * 32)
            assert not isinstance(caught.value, ServerOutageError)


def test_an_outage_counts_from_its_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long nothing changed before; an answer between two outages ends the first."""
    clock = [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: clock[0])
    error: SpectrumClientError = ServerUnreachableError("away")
    retry = OutageRetry("a", 10, is_known=True)
    pauses = []
    for now in (100.0, 105.0, 109.0):
        clock[0] = now
        pauses.append(retry.pause_seconds(error))
    assert pauses == sorted(pauses)
    assert max(pauses) <= 5
    retry.reset()
    clock[0] = 300.0
    assert retry.pause_seconds(error) == pauses[0]
    clock[0] = 310.0
    with pytest.raises(ServerOutageError, match="for 10 s"):
        retry.pause_seconds(error)


def test_a_pause_that_the_server_asks_for_is_kept_but_for_the_deadline() -> None:
    busy = ProblemResponseError(Problem(title="Too many requests", status=429), retry_after_seconds=60.0)
    assert OutageRetry("a", 600, is_known=False).pause_seconds(busy) == 60
    soon = OutageRetry("a", 600, is_known=True, deadline=time.monotonic() + 5)
    assert 4 < soon.pause_seconds(busy) <= 5


HEARING_INTERRUPTS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Shells have what they start in the background ignore interrupts, and that is inherited."""


@pytest.mark.parametrize("command", ["watch", "run"])
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(
    passage: Passage, client: SpectrumClient, tmp_path: Path, command: str
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(ENDLESS | {"tags": {"interrupted": command}}))
    argument = client.submit(json.loads(request.read_text()), fresh=True).id if command == "watch" else str(request)
    arguments = [sys.executable, "-c", HEARING_INTERRUPTS, SPECTRUM, command, argument, "--url", passage.url]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes) as process:
        assert passage.has_answered.wait(60)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (job,) = client.jobs(tag=f"interrupted:{command}")
    try:
        assert process.returncode == 130, errors
        assert f"Job {job.id} goes on" in errors
        assert f"spectrum watch {job.id} --server {passage.url}" in errors
        assert f"spectrum result {job.id} --server {passage.url} -o FILE" in errors
        assert job.state in ("queued", "running")
    finally:
        client.cancel(job.id)
        client.wait(job.id, 30)


def test_a_heartbeat_after_an_event_is_no_event() -> None:
    """The service sends a comment after fifteen quiet seconds; httpx-sse 0.4.3 takes it for an event without data."""
    links = Links(self="/", result="/", events="/", cancel="/")
    progress = Progress(phase="products", done=1, total=2, unit="matrix-vector products")
    fields = {"started_at": None, "finished_at": None, "error": None, "tags": {}, "links": links}
    job = Job(id="0" * 32, kind="spectrum", state="running", progress=progress, attempt=1, created_at=NOW, **fields)
    ended = job.model_copy(update={"state": "succeeded"})
    parts = [f"id: 7-0\ndata: {job.model_dump_json()}", ": ping", f"id: 8-0\ndata: {ended.model_dump_json()}"]
    response = httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, text="".join(f"{part}\n\n" for part in parts)
    )
    cursor = EventCursor(job.id)
    read = [cursor.read(event) for event in EventSource(response).iter_sse()]
    assert [each for each in read if each is not None] == [job, ended]
    assert cursor.ended
    assert cursor.arguments()["headers"] == {"Last-Event-ID": "8-0"}
