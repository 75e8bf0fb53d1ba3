"""`kill -9` of anything in the middle of a job: the job goes on and ends with the numbers of an undisturbed one."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient

# Long enough to be killed in the middle, short enough to wait for.
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 128},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 10, "num_probes": 2},
    "train": {"num_steps": 8000, "learning_rate": 0.01},
}


COMPARISON: dict[str, Any] = {
    "kind": "hessian-vs-ggn",
    "models": [{"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 3, "n_positions": 4, "vocab_size": 256}],
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4},
    "pretrain": {"num_steps": 1000, "batch_size": 2, "measure_every": [{"every": 1000}]},
}


HASTY = {"SPECTRUM_LEASE_SECONDS": "3", "SPECTRUM_CHECKPOINT_SECONDS": "0.1"}


@pytest.fixture(scope="module")
def own_server(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = start_server(tmp_path_factory.mktemp("faults") / "data", **HASTY, SPECTRUM_REPUBLISH_SECONDS="2")
    yield server
    server.stop()


@pytest.fixture
def own_client(own_server: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(own_server.url) as client:
        yield client


@pytest.fixture
def patient_server(start_server: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """Whose leases outlast the report of the process that saw another one die, however busy the machine is."""
    server = start_server(tmp_path / "data", **HASTY | {"SPECTRUM_LEASE_SECONDS": "60"})
    yield server
    server.stop()


@pytest.fixture
def patient_client(patient_server: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(patient_server.url) as client:
        yield client


def wait_until_training(client: SpectrumClient, job_id: str) -> Job:
    deadline = time.monotonic() + 60
    while True:
        job = client.job(job_id)
        if job.state == "running" and job.progress.phase == "training" and job.progress.done > 100:
            return job
        assert job.state in ("queued", "running"), job
        assert time.monotonic() < deadline, job
        time.sleep(0.02)


def kill(pids: list[int], signal_number: int = signal.SIGKILL) -> None:
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def numbers(result: Any) -> dict[str, Any]:
    """All of a result but for the time that it took."""
    document = dict(result.model_dump())
    assert document["provenance"].pop("wall_time_seconds") > 0
    return document


def expect_second_attempt(server: Any, client: SpectrumClient, job_id: str, *, undisturbed: dict[str, Any]) -> None:
    job = client.wait(job_id, timeout_seconds=120)
    assert job.state == "succeeded", job
    assert job.attempt == 2
    assert numbers(client.result(job_id)) == undisturbed
    assert "the job continues after" in server.log.read_text()
    wait_until_gone(server.data_directory / "results" / "job-checkpoints" / job_id)


@pytest.fixture(scope="module")
def undisturbed(own_server: Any) -> dict[str, Any]:
    with SpectrumClient(own_server.url) as client:
        return numbers(client.run(JOB, fresh=True))


def test_the_process_that_computes(own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]) -> None:
    job_id = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, job_id)
    kill(own_server.pids("-m hessian_spectrum.worker")[1:])
    expect_second_attempt(own_server, own_client, job_id, undisturbed=undisturbed)


@pytest.mark.long
def test_the_process_that_pretrains(own_server: Any, own_client: SpectrumClient) -> None:
    job_id = own_client.submit(COMPARISON, fresh=True).id
    wait_until_training(own_client, job_id)
    kill(own_server.pids("-m hessian_spectrum.worker")[1:])
    job = own_client.wait(job_id, timeout_seconds=120)
    assert (job.state, job.attempt) == ("succeeded", 2), job
    assert numbers(own_client.result(job_id)) == numbers(own_client.run(COMPARISON, fresh=True))


@pytest.mark.long
def test_the_whole_worker(own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]) -> None:
    job_id = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, job_id)
    kill(own_server.pids("-m hessian_spectrum.worker"))
    expect_second_attempt(own_server, own_client, job_id, undisturbed=undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]
) -> None:
    """The next worker goes on at once, without waiting for the lease, and nothing is counted as lost."""
    job_id = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, job_id)
    os.kill(own_server.pids("-m hessian_spectrum.worker")[0], signal.SIGTERM)
    deadline = time.monotonic() + 30
    while own_client.job(job_id).state != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    expect_second_attempt(own_server, own_client, job_id, undisturbed=undisturbed)
    assert f"job {job_id} is requeued" in own_server.log.read_text()
    with own_server.redis() as redis:
        assert redis.hget(f"spectrum:job:{job_id}", "losses") is None


@pytest.mark.redis
@pytest.mark.slow
def test_redis(own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]) -> None:
    """The worker goes on computing, and the service answers 503 until Redis is back."""
    before = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, before)
    kill(own_server.pids("redis"))
    with pytest.raises(ProblemResponseError) as caught:
        own_client.job(before)
    assert caught.value.problem.status == 503
    job = own_client.wait(before, timeout_seconds=120)
    assert job.state == "succeeded", job
    assert numbers(own_client.result(before)) == undisturbed
    assert numbers(own_client.run(JOB, fresh=True)) == undisturbed


@pytest.mark.long
def test_the_service(own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]) -> None:
    job_id = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, job_id)
    kill(own_server.pids("-m hessian_spectrum.service"))
    own_server.wait_until_ready()
    job = own_client.wait(job_id, timeout_seconds=120)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert "service died and was started again" in own_server.log.read_text()


@pytest.mark.long
def test_a_message_that_is_lost_is_sent_again(own_server: Any, own_client: SpectrumClient) -> None:
    first = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, first)
    second = own_client.submit(JOB | {"train": None}, fresh=True).id
    with own_server.redis() as redis:
        assert redis.delete("spectrum:celery:spectrum") == 1
    assert own_client.wait(second, timeout_seconds=90).state == "succeeded"


@pytest.mark.long
def test_everything_at_once_and_a_new_start(
    start_server: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    data = tmp_path / "data"
    server = start_server(data, **HASTY)
    with SpectrumClient(server.url) as client:
        finished = client.submit(JOB | {"train": None}, wait_seconds=60, fresh=True).id
        running = client.submit(JOB, fresh=True).id
        queued = client.submit(JOB | {"train": None}, fresh=True).id
        wait_until_training(client, running)
        pids = [server.process.pid, *server.pids("")]
        kill(pids)
        server.process.wait(10)
    for pid in pids:
        wait_until_gone(Path(f"/proc/{pid}"))
    server = start_server(data, **HASTY)
    with SpectrumClient(server.url) as client:
        assert client.result(finished).num_parameters == 64 * 8 + 8 + 8 * 10 + 10
        expect_second_attempt(server, client, running, undisturbed=undisturbed)
        assert client.wait(queued, timeout_seconds=60).state == "succeeded"
    server.stop()


async def seconds_of_many(url: str, number: int) -> list[float]:
    """What each of many requests at once waits for its 503."""

    async def ask(client: httpx.AsyncClient) -> float:
        started = time.monotonic()
        assert (await client.get(url)).status_code == 503
        return time.monotonic() - started

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=number)) as client:
        return await asyncio.gather(*(ask(client) for _ in range(number)))


def wait_until_gone(path: Path) -> None:
    """A file, or the directory of a process, which as a zombie counts as gone."""
    deadline = time.monotonic() + 30
    while path.exists():
        with contextlib.suppress(FileNotFoundError):
            if "Z" in (path / "stat").read_text().split()[2]:
                return
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize(
    "name", [pytest.param("SIGKILL", marks=pytest.mark.slow), pytest.param("SIGSEGV", marks=pytest.mark.long)]
)
def test_a_job_that_loses_its_third_worker_fails(
    patient_server: Any, patient_client: SpectrumClient, name: str
) -> None:
    job_id = patient_client.submit(JOB | {"train": JOB["train"] | {"num_steps": 1_000_000}}, fresh=True).id
    for attempt in (1, 2, 3):
        while wait_until_training(patient_client, job_id).attempt < attempt:
            time.sleep(0.02)
        kill(patient_server.pids("-m hessian_spectrum.worker")[1:], getattr(signal, name))
    job = patient_client.wait(job_id, timeout_seconds=120)
    assert (job.state, job.attempt) == ("failed", 3), job
    assert job.error is not None
    assert job.error.type == "/problems/workers-lost"
    assert f"died of {name}" in (job.error.detail or "")
    assert ("more memory" in (job.error.detail or "")) is (name == "SIGKILL")
    wait_until_gone(patient_server.data_directory / "results" / "job-checkpoints" / job_id)


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over(
    own_server: Any, own_client: SpectrumClient, undisturbed: dict[str, Any]
) -> None:
    job_id = own_client.submit(JOB, fresh=True).id
    wait_until_training(own_client, job_id)
    computing = own_server.pids("-m hessian_spectrum.worker")[1:]
    for pid in computing:
        os.kill(pid, signal.SIGSTOP)
    checkpoints = own_server.data_directory / "results" / "job-checkpoints" / job_id
    pieces = [path for path in checkpoints.rglob("*") if path.is_file()]
    assert pieces
    for path in pieces:
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    kill(computing)
    job = own_client.wait(job_id, timeout_seconds=120)
    assert (job.state, job.attempt) == ("succeeded", 2), job
    assert numbers(own_client.result(job_id)) == undisturbed
    assert "checkpoint ignored" in own_server.log.read_text()
    assert "the job continues after" not in own_server.log.read_text().rpartition("checkpoint ignored")[2]


@pytest.mark.slow
def test_closed_forms_while_redis_is_away(own_server: Any, own_client: SpectrumClient) -> None:
    redis = own_server.pids("redis")[0]
    os.kill(redis, signal.SIGSTOP)
    try:
        body = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}
        assert httpx.post(f"{own_server.url}/v1/closed-form", json=body, timeout=20).status_code == 200
        for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/health/ready")):
            started = time.monotonic()
            json = JOB if method == "POST" else None
            response = httpx.request(method, f"{own_server.url}{path}", json=json, timeout=30)
            assert response.status_code == 503, (path, response.text)
            assert response.headers["retry-after"]
            assert time.monotonic() - started < 10  # Redis is waited for once, for 2 s
        assert max(asyncio.run(seconds_of_many(f"{own_server.url}/v1/jobs", 60))) < 10
    finally:
        os.kill(redis, signal.SIGCONT)
    own_server.wait_until_ready()
    assert own_client.run(JOB | {"train": None}, fresh=True).num_parameters == 64 * 8 + 8 + 8 * 10 + 10
