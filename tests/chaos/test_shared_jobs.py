"""A job that two workers share: the numbers of one, whatever dies; and nobody goes on when it is cancelled."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

MEMORY_BYTES = 2**29  # which leaves no room for a compiler, whose trial would take half a minute
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 1024, 1024, 10]},
    "data": {"kind": "digits", "num_samples": 1024},
    "loss": "cross-entropy",
    "matrix": "ggn",
    "method": {"kind": "lanczos", "num_steps": 14, "num_probes": 2, "num_points": 64},
    "train": {"num_steps": 2, "learning_rate": 0.1, "batch_size": 64},
}
SWEEP: dict[str, Any] = {
    "kind": "sweep",
    "base": {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [64, 16, 10]},
        "data": {"kind": "digits", "num_samples": 256},
        "loss": "cross-entropy",
        "method": {"kind": "lanczos", "num_steps": 20, "num_probes": 2, "num_points": 64},
        "train": {"num_steps": 200, "learning_rate": 0.1},
    },
    # networks of one shape, which are trained together, and others of a shape of their own
    "over": {"model.widths": [[64, 16, 10], *([64, width, 10] for width in range(17, 29))], "model.seed": [0]},
}
"""Points of a second each, which two workers share."""
LONG = JOB | {"method": JOB["method"] | {"num_steps": 28, "num_probes": 4}}


@pytest.fixture(scope="module")
def pair(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A stack with two workers of one thread each."""
    environment = {
        "SPECTRUM_NUM_THREADS": "1",
        "SPECTRUM_MEMORY_BYTES": str(MEMORY_BYTES),
        "SPECTRUM_CHECKPOINT_SECONDS": "0.2",
        "SPECTRUM_LEASE_SECONDS": "3",
    }
    server = start_server(tmp_path_factory.mktemp("pair") / "data", workers=2, **environment)
    yield server
    server.stop()


@pytest.fixture
def client(pair: Any) -> Iterator[SpectrumClient]:
    with SpectrumClient(pair.url) as found:
        yield found


def alone(job: dict[str, Any]) -> dict[str, Any]:
    """What one worker with one thread finds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        request, hardware = SpectrumRequest.model_validate(job), Hardware(torch.device("cpu"), 1, MEMORY_BYTES)
        assert estimate(request, MEMORY_BYTES).num_shards == job["method"]["num_probes"]
        return numbers(run_spectrum_job(request, hardware, lambda *_: None).result)
    finally:
        torch.set_num_threads(before)


def numbers(result: Any) -> dict[str, Any]:
    document = dict(result.model_dump())
    for name in ("wall_time_seconds", "num_workers"):
        assert document["provenance"].pop(name) > 0
    return document


def shards(server: Any, job_id: str) -> dict[str, str]:
    """Fields of the record that are of shards."""
    with server.redis() as redis:
        fields = redis.hgetall(f"spectrum:job:{job_id}")
    return {name: value for name, value in fields.items() if name.startswith("shard:")}


def wait_until_shared(server: Any, client: SpectrumClient, job_id: str) -> str:
    """The token of the helper, once it has multiplied."""
    deadline = time.monotonic() + 60
    while True:
        fields = shards(server, job_id)
        helped = [name.split(":")[1] for name in fields if name.endswith(":until")]
        if helped and f"shard:{helped[0]}:products" in fields:
            return fields[f"shard:{helped[0]}:token"]
        assert client.job(job_id).state in ("queued", "running")
        assert time.monotonic() < deadline, fields
        time.sleep(0.02)


@pytest.mark.slow
def test_two_workers_find_the_numbers_of_one(pair: Any, client: SpectrumClient) -> None:
    job_id = client.submit(JOB).id
    wait_until_shared(pair, client, job_id)
    job = client.wait(job_id, timeout_seconds=120)
    assert (job.state, job.attempt) == ("succeeded", 1), job
    assert job.progress.done == job.progress.total == 28
    result = client.result(job_id)
    assert (result.provenance.num_shards, result.provenance.num_workers) == (2, 2)
    assert numbers(result) == alone(JOB)
    directory = pair.data_directory / "results" / "job-checkpoints" / job_id
    deadline = time.monotonic() + 30
    while directory.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.delete(job_id)
    assert shards(pair, job_id) == {}


@pytest.mark.slow
def test_a_cancelled_job_is_cancelled_for_both(pair: Any, client: SpectrumClient) -> None:
    job_id = client.submit(LONG | {"seed": 1}).id
    wait_until_shared(pair, client, job_id)
    client.cancel(job_id)
    deadline = time.monotonic() + 15  # what is left of the job takes longer
    while client.job(job_id).state != "cancelled" or any(name.endswith(":until") for name in shards(pair, job_id)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.job(job_id).state == "cancelled"


@pytest.mark.parametrize(
    ("seed", "victim"),
    [
        pytest.param(2, "helper", marks=pytest.mark.slow),
        pytest.param(3, "leader", marks=pytest.mark.slow),
        pytest.param(4, "both", marks=pytest.mark.long),
        pytest.param(5, "stopped", marks=pytest.mark.long),
    ],
)
def test_whatever_dies_the_numbers_are_those_of_one(pair: Any, client: SpectrumClient, seed: int, victim: str) -> None:
    job = LONG | {"seed": seed}
    job_id = client.submit(job).id
    helper = int(wait_until_shared(pair, client, job_id).split("/")[0].split("-")[-1])
    worker, *children = pair.pids("-m hessian_spectrum.worker")
    assert helper in children
    if victim == "stopped":
        os.kill(worker, signal.SIGTERM)
    for child in children:
        if victim == "both" or (victim == "helper" and child == helper) or (victim == "leader" and child != helper):
            os.kill(child, signal.SIGKILL)
    ended = client.wait(job_id, timeout_seconds=300)
    assert ended.state == "succeeded", ended
    assert ended.attempt == (1 if victim == "helper" else 2)
    result = client.result(job_id)
    assert numbers(result) == alone(job)


def columns(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = result.model_dump()["columns"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victims", [[], [1], [0]], ids=["nobody", "one worker", "the other"])
def test_two_workers_share_a_list_of_points(
    victims: list[int], pair: Any, client: SpectrumClient, request: pytest.FixtureRequest
) -> None:
    """The numbers are those of a list that nobody disturbed, whoever dies in the middle of it."""
    seed = {"base": SWEEP["base"] | {"seed": 1 + len(request.node.callspec.id)}}  # points that no other test has kept
    undisturbed = columns(client.run(SWEEP | seed))
    with pair.redis() as redis:
        kept = pair.data_directory / "results" / "points"
        for path in list(kept.rglob("*")):
            if path.is_file():
                path.unlink()
        job_id = client.submit(SWEEP | seed, fresh=True).id
        deadline = time.monotonic() + 60
        while len([name for name in redis.hgetall(f"spectrum:job:{job_id}") if name.endswith(":done")]) < 2:
            assert time.monotonic() < deadline, client.job(job_id)
            time.sleep(0.02)
        tokens = {value for name, value in shards(pair, job_id).items() if name.endswith(":token")}
        lease = redis.hget(f"spectrum:job:{job_id}", "token")
    for victim in victims:
        token = [lease, *sorted(tokens - {lease})][victim]
        os.kill(int(token.partition("/")[0].rpartition("-")[2]), signal.SIGKILL)
    job = client.wait(job_id, timeout_seconds=120)
    assert job.state == "succeeded", job
    assert job.progress.total in (13, job.progress.total)
    assert columns(client.result(job_id)) == undisturbed
