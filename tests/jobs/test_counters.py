"""What is counted over all jobs, once each."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.counters import JobCounters, read_counters
from hessian_spectrum.jobs.scripts import DURATION_BOUNDS
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.worker_registry import register
from tests.fixtures.jobs import create_job

PROBLEM = Problem(title="No", status=500)


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=2)


def counters(client: redis.Redis) -> JobCounters:
    return read_counters(client)


def test_nothing_was_counted_in_the_beginning(redis_client: redis.Redis) -> None:
    found = counters(redis_client)
    assert set(found.num_jobs.values()) == {0}
    assert (found.num_messages, found.oldest_queued_seconds, found.workers) == (0, 0.0, [])
    assert found.number("attempts") == 0
    assert found.durations("wait").counts == (0.0,) * (len(DURATION_BOUNDS) + 1)


def test_the_way_of_jobs_is_counted(store: JobStore, redis_client: redis.Redis) -> None:
    ids = [create_job(store)[0].id for _ in range(6)]
    time.sleep(0.05)
    for job_id, end in zip(ids[:4], ("succeed", "fail", "give back", "cancel"), strict=True):
        lease = store.claim(job_id)
        assert lease is not None
        match end:
            case "succeed":
                store.renew(lease, None, num_products=7)
                store.renew(lease, None)
                store.renew(lease, None, num_products=5)
                time.sleep(0.05)
                store.succeed(lease, "a" * 64)
            case "fail":
                store.fail(lease, PROBLEM)
            case "give back":
                store.requeue(lease)
            case "cancel":
                store.cancel(job_id)
                store.close_cancelled(lease)
    store.cancel(ids[4])
    found = counters(redis_client)
    assert found.num_jobs == {
        "queued": 2, "running": 0, "cancelling": 0, "succeeded": 1, "failed": 1, "cancelled": 2, "expired": 0,
    }  # fmt: skip
    names = ("accepted", "attempts", "given_back", "products", "lease_losses", "poisoned", "cached")
    assert [found.number(name) for name in names] == [6, 4, 1, 12, 0, 0, 0]
    assert {state: found.number(f"ended:{state}") for state in ("succeeded", "failed", "cancelled")} == {
        "succeeded": 1, "failed": 1, "cancelled": 2,
    }  # fmt: skip
    waited, ran = found.durations("wait"), found.durations("run")
    assert waited.counts[-1] == 5  # four that were claimed, one that was cancelled in the queue
    assert ran.counts[-1] == 4
    assert waited.counts[0] == 0
    assert waited.sum_seconds > 5 * 0.05
    assert 0.05 < ran.sum_seconds < 5
    assert list(ran.counts) == sorted(ran.counts)
    assert 0 < found.oldest_queued_seconds < 60


def test_lost_workers_are_counted(redis_client: redis.Redis) -> None:
    hasty = JobStore(redis_client, lease_seconds=0.0, max_attempts=2)
    job_id = create_job(hasty)[0].id
    for _ in range(2):
        hasty.claim(job_id)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: hasty.recover_lost(), range(8)))
    found = counters(redis_client)
    names = ("attempts", "lease_losses", "poisoned", "ended:failed", "given_back")
    assert [found.number(name) for name in names] == [2, 2, 1, 1, 0]
    assert found.durations("run").counts[-1] == 2


def test_workers_that_are_there(redis_client: redis.Redis) -> None:
    worker = WorkerStatus(name="a-1", device="cpu", memory_bytes=1, concurrency=2, resident_bytes=3)
    register(redis_client, worker)
    [found] = counters(redis_client).workers
    assert found.resident_bytes == 3
    assert found.clock_skew_seconds == pytest.approx(0, abs=0.5)
