"""While a job is computed its lease lives, and its worker hears what callers wish."""

import multiprocessing
import os
import threading
import time
from multiprocessing.process import BaseProcess

import pytest
import redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.jobs import JobState, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.worker.failures import JobFailure
from hessian_spectrum.worker.runtime.supervision import JobCancelledError, LeaseRenewer, WorkerStoppingError


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=1.5, max_attempts=3)


def report_until_stopped(keeper: LeaseRenewer, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        keeper.report("products", 1, 2)
        time.sleep(0.01)


def test_the_lease_outlives_its_seconds(store: JobStore) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        report_until_stopped(keeper, 2.5)
        assert store.recover_lost() == []
        assert store.get(job_id).progress.done == 1
    time.sleep(1.6)
    assert store.recover_lost() == [job_id]


def test_a_cancelled_job_stops_within_two_seconds(store: JobStore) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        store.cancel(job_id)
        started = time.monotonic()
        with pytest.raises(JobCancelledError):
            report_until_stopped(keeper)
        assert time.monotonic() - started < 2.0


def test_a_worker_that_lost_its_job_stops(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
    lease = store.claim(job_id)
    assert lease is not None
    with LeaseRenewer(store, lease) as keeper:
        redis_client.hset(f"spectrum:job:{job_id}", "token", "of another worker")
        with pytest.raises(LeaseLostError):
            report_until_stopped(keeper)


def test_a_worker_that_is_told_to_stop_stops_and_keeps_the_lease(store: JobStore) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
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
    job_id = store.create("spectrum", "{}", {})[0].id
    for attempt in (1, 2):
        lease = store.claim(job_id)
        assert lease is not None
        with LeaseRenewer(store, lease, time_limit_seconds=2.0) as keeper:
            started = time.monotonic()
            if attempt == 1:
                report_until_stopped(keeper, 1.2)
                store.requeue(lease)
                continue
            with pytest.raises(JobFailure) as caught:
                report_until_stopped(keeper)
            assert time.monotonic() - started < 1.5
            assert caught.value.problem.type == "/problems/time-limit"
            assert "2 s" in (caught.value.problem.detail or "")


def compute_deaf(store: JobStore, lease: Lease, time_limit_seconds: float) -> BaseProcess:
    """The process of a computation that never reports, once it has ended or 10 s are over."""

    def compute() -> None:
        with LeaseRenewer(store, lease, time_limit_seconds=time_limit_seconds):
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=compute)
    process.start()
    process.join(10)
    return process


def test_a_computation_that_does_not_hear_of_its_loss_ends_with_its_process(
    store: JobStore, redis_client: redis.Redis
) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
    lease = store.claim(job_id)
    assert lease is not None
    redis_client.hset(f"spectrum:job:{job_id}", "token", "of another worker")
    started = time.monotonic()
    assert compute_deaf(store, lease, float("inf")).exitcode == os.EX_TEMPFAIL
    assert time.monotonic() - started < 2.0
    assert store.get(job_id).state == "running"


def test_a_computation_that_does_not_listen_ends_with_its_process(store: JobStore) -> None:
    job_id = store.create("spectrum", "{}", {})[0].id
    lease = store.claim(job_id)
    assert lease is not None

    assert compute_deaf(store, lease, 0.5).exitcode == os.EX_TEMPFAIL
    record = store.get(job_id)
    assert record.state == "failed"
    assert record.error is not None
    assert record.error.type == "/problems/time-limit"


class SlowLeases:
    """JobOutputs the first sign at once, all others when told to and as told."""

    def __init__(self, answer: Exception) -> None:
        self.may_answer, self._answer, self._num_signs = threading.Event(), answer, 0

    def renew(self, lease: Lease, progress: Progress | None, num_products: int = 0) -> JobState:
        self._num_signs += 1
        if self._num_signs > 1:
            self.may_answer.wait(10)
            raise self._answer
        return "running"

    def close_cancelled(self, lease: Lease) -> JobState:
        raise NotImplementedError

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        raise NotImplementedError


@pytest.mark.parametrize("answer", [LeaseLostError(), RedisError()], ids=["it is another's", "nobody answers"])
def test_who_stood_still_asks_before_it_computes_on(answer: Exception) -> None:
    leases = SlowLeases(answer)
    reported: list[float] = []
    with LeaseRenewer(leases, Lease("job", "token", 1, seconds=1.0)) as keeper:
        threading.Timer(2.0, leases.may_answer.set).start()
        started = time.monotonic()
        try:
            while time.monotonic() - started < 2.5:
                keeper.report("products", 1, 2)
                reported.append(time.monotonic() - started)
                time.sleep(0.01)
        except LeaseLostError:
            assert isinstance(answer, LeaseLostError)
    assert min(reported) < 0.5
    assert not [at for at in reported if 1.2 < at < 1.9]
    assert (max(reported) > 1.9) == isinstance(answer, RedisError)
