"""While a job is computed its lease lives, and its worker hears what callers wish."""

import multiprocessing
import os
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess

import pytest
import redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.jobs import JobState, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.worker.failures import JobFailure
from hessian_spectrum.worker.runtime.supervision import (
    SECONDS_BETWEEN_RENEWALS,
    JobCancelledError,
    LeaseRenewer,
    WorkerStoppingError,
)
from tests.fixtures.jobs import create_job


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=1.5, max_attempts=3)


def report_until_stopped(keeper: LeaseRenewer, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        keeper.report("products", 1, 2)
        time.sleep(0.01)


def test_the_lease_outlives_its_seconds(store: JobStore) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        report_until_stopped(keeper, 2.5)
        assert store.recover_lost() == []
        assert store.get(job_id).progress.done == 1
    time.sleep(1.6)
    assert store.recover_lost() == [job_id]


def test_a_cancelled_job_stops_with_the_next_renewal(store: JobStore) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        renewals: list[int] = []
        store.cancel(job_id)
        keeper.on_renewal = lambda: renewals.append(1)
        with pytest.raises(JobCancelledError):
            report_until_stopped(keeper)
    assert len(renewals) <= 3  # the one that was under way, the one that heard of it, and one more on a slow machine
    assert SECONDS_BETWEEN_RENEWALS <= 0.5


def test_a_worker_that_lost_its_job_stops(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        redis_client.hset(f"spectrum:job:{job_id}", "token", "of another worker")
        with pytest.raises(LeaseLostError):
            report_until_stopped(keeper)


def test_a_worker_that_is_told_to_stop_stops_and_keeps_the_lease(store: JobStore) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    told = [False]
    with LeaseRenewer(store, lease, stopping=lambda: told[0]) as keeper:
        keeper.report("products", 1, 2)
        told[0] = True
        with pytest.raises(WorkerStoppingError):
            keeper.report("products", 2, 2)
    assert store.requeue(lease) == "queued"


def test_time_over_all_attempts_has_a_limit(store: JobStore) -> None:
    """The second attempt would take another minute by itself."""
    job_id = create_job(store)[0].id
    first = store.claim(job_id)
    assert first is not None
    with LeaseRenewer(store, first, time_limit_seconds=60.0) as keeper:
        report_until_stopped(keeper, 1.2)
        store.requeue(first)
    second = store.claim(job_id)
    assert second is not None
    assert second.run_seconds >= 0.5
    second = replace(second, run_seconds=second.run_seconds + 59.0)
    with LeaseRenewer(store, second, time_limit_seconds=60.0) as keeper, pytest.raises(JobFailure) as caught:
        report_until_stopped(keeper)
    assert caught.value.problem.type == "/problems/time-limit"
    assert "60 s" in (caught.value.problem.detail or "")


def compute_deaf(store: JobStore, lease: Lease, time_limit_seconds: float) -> BaseProcess:
    """The process of a computation of a minute that never reports, once it has ended or half a minute is over."""

    def compute() -> None:
        with LeaseRenewer(store, lease, time_limit_seconds=time_limit_seconds):
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=compute)
    process.start()
    process.join(30)
    return process


def test_a_computation_that_does_not_hear_of_its_loss_ends_with_its_process(
    store: JobStore, redis_client: redis.Redis
) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    redis_client.hset(f"spectrum:job:{job_id}", "token", "of another worker")
    assert compute_deaf(store, lease, float("inf")).exitcode == os.EX_TEMPFAIL
    assert store.get(job_id).state == "running"


def test_a_computation_that_does_not_listen_ends_with_its_process(store: JobStore) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None

    assert compute_deaf(store, lease, 0.5).exitcode == os.EX_TEMPFAIL
    record = store.get(job_id)
    assert record.state == "failed"
    assert record.error is not None
    assert record.error.type == "/problems/time-limit"


class SlowLeases:
    """Answers the first sign at once, all others two seconds after it and as told."""

    def __init__(self, answer: Exception) -> None:
        self.has_answered, self.first_at, self._answer = threading.Event(), 0.0, answer

    def renew(
        self, lease: Lease, progress: Progress | None, num_products: int = 0, interim_digest: str = ""
    ) -> JobState:
        if not self.first_at:
            self.first_at = time.monotonic()
            return "running"
        time.sleep(max(0.0, self.first_at + 2.0 - time.monotonic()))
        self.has_answered.set()
        raise self._answer

    def close_cancelled(self, lease: Lease) -> JobState:
        raise NotImplementedError

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        raise NotImplementedError


@pytest.mark.parametrize("answer", [LeaseLostError(), RedisError()], ids=["it is another's", "nobody answers"])
def test_who_stood_still_asks_before_it_computes_on(answer: Exception) -> None:
    leases, is_lost = SlowLeases(answer), False
    reported: list[tuple[float, bool]] = []  # when it began to report, and whether there was an answer when it had
    with LeaseRenewer(leases, Lease("job", "token", 1, seconds=1.0)) as keeper:
        try:
            while not (reported and reported[-1][1]):
                began = time.monotonic()
                keeper.report("products", 1, 2)
                reported.append((began, leases.has_answered.is_set()))
                time.sleep(0.01)
        except LeaseLostError:
            is_lost = True
    assert is_lost == isinstance(answer, LeaseLostError)
    assert not reported[0][1]
    assert not [began for began, is_answered in reported if began > leases.first_at + 1.0 and not is_answered]
