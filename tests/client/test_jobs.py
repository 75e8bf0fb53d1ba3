"""Jobs as objects, and groups of them, against the real stack."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hessian_spectrum.api_schemas.methods import ExactResult
from hessian_spectrum.client import progress
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.jobs import JobGroup
from tests.fixtures.jobs import EXACT_JOB

ENDLESS = EXACT_JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-9}}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What progress bars show in a terminal."""
    text = io.StringIO()

    def terminal(**_: Any) -> Console:
        return Console(file=text, force_terminal=True, width=120)

    monkeypatch.setattr(progress, "Console", terminal)
    monkeypatch.setattr("hessian_spectrum.client.jobs.Console", terminal)
    return text


def test_a_job_is_waited_for_with_a_bar_and_gives_its_result(client: SpectrumClient, shown: io.StringIO) -> None:
    job = client.submit(EXACT_JOB, fresh=True)
    result = job.result(progress=True)
    assert isinstance(result, ExactResult)
    assert result == client.result(job.id)
    assert "succeeded" in shown.getvalue()
    assert job.id[:12] in shown.getvalue()
    ended = job.refresh()
    assert ended.has_ended
    assert ended == client.job(job.id)
    assert ended.request()["kind"] == "spectrum"
    assert [each.state for each in [job.wait(), next(client.jobs())]] == ["succeeded", "succeeded"]
    job.delete()
    with pytest.raises(ProblemResponseError, match="No such job"):
        job.refresh()


def test_a_job_without_a_result_says_why(client: SpectrumClient) -> None:
    job = client.submit(ENDLESS)
    assert job.wait(timeout_seconds=0.2).has_ended is False
    assert job.cancel().state in ("cancelling", "cancelled")
    with pytest.raises(JobFailedError, match="cancelled"):
        job.result()


def test_a_notebook_shows_a_job_as_a_table(client: SpectrumClient) -> None:
    job = client.submit(EXACT_JOB | {"tags": {"<b>": "&"}})
    table = job._repr_html_()
    assert f">{job.id}<" in table
    assert "exact, hessian of mlp" in table
    assert len(table) < 1000
    assert repr(JobGroup([job.wait()])) == "JobGroup of 1 jobs: 1 succeeded"


def test_a_grid_of_jobs_has_one_bar(client: SpectrumClient, shown: io.StringIO) -> None:
    jobs = client.submit_many(
        EXACT_JOB,
        over={"model.seed": [1, 2, 3], "train.num_steps": [1, 5]} | {"train.learning_rate": [0.1]},
        fresh=True,
    )
    assert len(jobs) == 6
    assert jobs.points[:3] == [
        {"model.seed": 1, "train.num_steps": 1, "train.learning_rate": 0.1},
        {"model.seed": 1, "train.num_steps": 5, "train.learning_rate": 0.1},
        {"model.seed": 2, "train.num_steps": 1, "train.learning_rate": 0.1},
    ]
    results = jobs.results(progress=True)
    assert "6/6" in shown.getvalue()
    for point, result in zip(jobs.points, results, strict=True):
        assert isinstance(result, ExactResult)
        alone = client.run(
            EXACT_JOB
            | {
                "model": EXACT_JOB["model"] | {"seed": point["model.seed"]},
                "train": {"num_steps": point["train.num_steps"], "learning_rate": 0.1},
            }
        )
        assert result == alone
    assert not np.allclose(results[0].eigenvalues, results[2].eigenvalues)  # type: ignore[union-attr]
    assert EXACT_JOB["model"] == {"kind": "mlp", "widths": [1, 2, 1]}  # the request itself has not changed
    assert len(jobs[:2]) == 2
    assert jobs[:2].points == jobs.points[:2]


def test_more_jobs_than_a_batch_takes_are_several_batches(
    client: SpectrumClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hessian_spectrum.client.jobs.MAX_BATCH_JOBS", 2)
    requests = [EXACT_JOB | {"model": EXACT_JOB["model"] | {"seed": seed}} for seed in range(5)]
    jobs = client.submit_many(requests, idempotency_key="several-batches")
    again = client.submit_many(requests, idempotency_key="several-batches")
    assert [job.id for job in jobs] == [job.id for job in again]
    assert [job.request()["model"]["seed"] for job in jobs] == list(range(5))
    assert {job.state for job in jobs.wait()} == {"succeeded"}
    assert {job.state for job in jobs.cancel()} <= {"succeeded", "cancelled"}


def test_a_grid_of_several_requests_is_no_grid(client: SpectrumClient) -> None:
    with pytest.raises(TypeError, match="one request"):
        client.submit_many([EXACT_JOB], over={"seed": [1]})


def test_asynchronous_jobs_are_awaited(server: Any, client: SpectrumClient) -> None:
    async def use() -> None:
        async with AsyncSpectrumClient(server.url) as own:
            job = await own.submit(EXACT_JOB)
            assert await job.result() == client.result(job.id)
            assert (await job.refresh()).has_ended
            assert (await job.request())["loss"] == "mse"
            *_, last = [each async for each in job.interim_results()]
            assert last == client.result(job.id)
            jobs = await own.submit_many(EXACT_JOB, over={"model.seed": [1, 2]})
            assert [(await each.wait()).state for each in jobs] == ["succeeded"] * 2
            assert (await job.cancel()).state == "succeeded"
            await job.delete()

    asyncio.run(use())
