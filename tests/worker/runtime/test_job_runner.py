"""One attempt at a job, where what it writes to is full or away."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.jobs import plans
from hessian_spectrum.jobs.plans import estimate, plan_job, stored_plan
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.settings import WorkerSettings
from hessian_spectrum.jobs.shards import ShardStore
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.results import ResultStore
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.builders import NO_INPUTS
from hessian_spectrum.worker.experiments import spectrum
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.runtime import job_runner
from hessian_spectrum.worker.runtime.job_runner import JobRunner
from tests.fixtures.jobs import create_job

REQUEST: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "top-k", "k": 2},
}


@pytest.fixture
def runner(redis_client: redis.Redis, redis_url: str, tmp_path: Path) -> JobRunner:
    settings = WorkerSettings(redis_url=redis_url, results_dir=tmp_path / "results")  # type: ignore[arg-type]
    store, queue, stores = own_store(redis_client), JobQueue(redis_url), open_stores(settings.results_dir)
    hardware = Hardware(torch.device("cpu"), 1, 2**32)
    shards = ShardStore(client=redis_client, lease_seconds=30.0, max_losses=2)
    return JobRunner(
        store,
        shards,
        queue,
        stores=stores,
        inputs=NO_INPUTS,
        hardware=hardware,
        settings=settings,
        stopping=lambda: False,
    )


@pytest.fixture
def run(runner: JobRunner) -> Callable[[str], None]:
    return runner.run


def own_store(client: redis.Redis) -> JobStore:
    return JobStore(client, lease_seconds=30.0, max_attempts=2)


def no_space(descriptor: int) -> None:
    if "/results/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.ENOSPC, "No space left on device")


def submitted(store: JobStore) -> str:
    request = JobRequest.model_validate(REQUEST).root.model_dump_json(exclude_none=True)
    return create_job(store, request)[0].id


def test_a_result_without_room_is_tried_again_and_then_a_failure(
    run: Callable[[str], None], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = own_store(redis_client)
    lucky, unlucky = submitted(store), submitted(store)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_space)
        for job_id in (lucky, unlucky):
            run(job_id)
            assert store.get(job_id).state == "running"  # until its lease has run out
            redis_client.hset(f"spectrum:job:{job_id}", "lease_until", 0)
        assert sorted(store.recover_lost()) == sorted([lucky, unlucky])
        run(unlucky)
        redis_client.hset(f"spectrum:job:{unlucky}", "lease_until", 0)
        store.recover_lost()
    error = store.get(unlucky).error
    assert error is not None
    assert (store.get(unlucky).state, error.type, error.status) == ("failed", "/problems/storage-full", 507)
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []
    run(lucky)
    record = store.get(lucky)
    assert (record.state, record.attempt) == ("succeeded", 2)
    assert ResultStore(LocalDirectory(tmp_path, "results")).read(record.result_digest or "")


@pytest.mark.parametrize(("stored_for", "num_plans"), [(2**32, 0), (2**31, 1), (None, 1)])
def test_a_worker_uses_the_plan_of_its_memory_and_makes_another_for_other_memory(
    runner: JobRunner,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stored_for: int | None,
    num_plans: int,
) -> None:
    """Jobs of the previous version have none."""
    store, made = own_store(redis_client), list[int | None]()

    def counted(request: Any, memory_bytes: int | None = None) -> Any:
        made.append(memory_bytes)
        return estimate(request, memory_bytes)

    request = JobRequest.model_validate(REQUEST).root.canonical()
    plan = None if stored_for is None else stored_plan(plan_job(request, stored_for))
    job_id = create_job(store, request.model_dump_json(exclude_none=True), plan=plan)[0].id
    alone = run_spectrum_job(request, Hardware(torch.device("cpu"), 1, 2**32), lambda *_: None).result
    for module in (plans, spectrum):
        monkeypatch.setattr(module, "estimate", counted)
    runner.run(job_id)
    assert made == num_plans * [2**32]
    result = json.loads(ResultStore(LocalDirectory(tmp_path, "results")).read(store.get(job_id).result_digest or ""))
    assert result["eigenpairs"] == json.loads(alone.model_dump_json())["eigenpairs"]


AWAY = [redis.ConnectionError("away"), redis.TimeoutError("silent")]


def absent(step: Callable[..., Any], errors: list[Exception]) -> Callable[..., Any]:
    """The step, whose first calls fail, as they do when a client's patience is over."""

    def tried(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return step(*arguments, **options)

    return tried


@pytest.mark.parametrize("errors", [AWAY, 3 * AWAY], ids=["twice", "often"])
def test_what_was_computed_outlasts_an_outage_of_redis(
    runner: JobRunner, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, errors: list[Exception]
) -> None:
    left = [*errors]
    monkeypatch.setattr(JobStore, "succeed", absent(JobStore.succeed, left))
    job_id = submitted(own_store(redis_client))
    runner.run(job_id)
    record = own_store(redis_client).get(job_id)
    assert (record.state, record.attempt, left) == ("succeeded", 1, [])


def test_a_worker_that_stops_does_not_wait_for_redis(
    runner: JobRunner, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobStore, "succeed", absent(JobStore.succeed, 100 * AWAY))
    monkeypatch.setattr(runner, "_stopping", lambda: stopping)
    stopping = False
    job_id = submitted(own_store(redis_client))

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    monkeypatch.setattr(job_runner._logger, "warning", stop)
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        runner.run(job_id)
    assert own_store(redis_client).get(job_id).state == "running"  # until its lease has run out


def test_after_a_crash_products_are_not_recorded(
    run: Callable[[str], None], redis_client: redis.Redis, tmp_path: Path
) -> None:
    """The process of the first attempt died of SIGSEGV: the next one computes all the same, and says how."""
    store = own_store(redis_client)
    crashed, other = submitted(store), submitted(store)
    assert store.claim(crashed, "host-1-2") is not None
    store.mark_worker_lost(crashed, "host-1-2", crash_signal="SIGSEGV")
    store.recover_lost()
    results = []
    for job_id in (crashed, other):
        run(job_id)
        record = store.get(job_id)
        assert record.state == "succeeded"
        content = ResultStore(LocalDirectory(tmp_path, "results")).read(record.result_digest or "")
        results.append(json.loads(content))
    first, second = results
    assert "died of SIGSEGV" in first["provenance"]["product_fallback"]
    assert second["provenance"]["product_fallback"] is None
    values = [[pair["value"] for pair in result["eigenpairs"]] for result in results]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
