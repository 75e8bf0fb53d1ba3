"""What an operation asks of Redis does not depend on the number of jobs: commands are counted, those of scripts too."""

from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.jobs.counters import read_counters
from hessian_spectrum.jobs.creation import JobSpecification
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue
from hessian_spectrum.jobs.record import QUEUED, Lease
from hessian_spectrum.jobs.scripts import index_key
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.worker_registry import RecentWorkers, register

FEW, MANY = 60, 6_000
SIZE = 50
OWN_COMMANDS = ("config|resetstat", "info", "client|setinfo")
WAITING, ENDED = ("part", "waiting"), ("part", "ended")


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    store = JobStore(redis_client, lease_seconds=600.0, max_attempts=3)
    store.index_existing_jobs()
    return store


def submit(store: JobStore, number: int, tag: tuple[str, str] = WAITING) -> list[str]:
    jobs = [JobSpecification("spectrum", "{}", tags=dict([tag])) for _ in range(number)]
    parts = [jobs[start : start + 500] for start in range(0, number, 500)]  # a script that takes long is timed out
    return [record.id for part in parts for record in store.creator.create(part)[0]]


def commands(client: redis.Redis, call: Callable[[], object]) -> dict[str, int]:
    """How often a call has Redis run each command."""
    client.config_resetstat()
    call()
    found = {name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()}
    return {
        name: number for name, number in found.items() if name not in ("config|resetstat", "info", "client|setinfo")
    }


def claimed(store: JobStore, job_id: str) -> Lease:
    lease = store.claim(job_id)
    assert lease is not None
    return lease


OPERATIONS: dict[str, Callable[[JobStore, str], Callable[[], object]]] = {
    "submission": lambda store, _: partial(submit, store, 1),
    "first page": lambda store, _: partial(store.page, size=SIZE),
    "page by state": lambda store, _: partial(store.page, state="queued", size=SIZE),
    "page by tag": lambda store, _: partial(store.page, tag=WAITING, size=SIZE),
    "page by tag and state": lambda store, _: partial(store.page, tag=WAITING, state="queued", size=SIZE),
    "empty page by tag and state": lambda store, _: partial(store.page, tag=ENDED, state="queued", size=SIZE),
    "next page": lambda store, job_id: partial(store.page, size=10, after=job_id),
    "claim": lambda store, job_id: partial(store.claim, job_id),
    "renewal": lambda store, job_id: partial(store.renew, claimed(store, job_id), QUEUED),
    "end": lambda store, job_id: partial(store.succeed, claimed(store, job_id), "a" * 64, "1"),
    "requeueing": lambda store, job_id: partial(store.requeue, claimed(store, job_id)),
    "cancellation": lambda store, job_id: partial(store.cancel, job_id),
    "deletion": lambda store, job_id: partial(store.delete, store.cancel(job_id).id),
    "search for lost jobs": lambda store, _: store.recover_lost,
    "whether jobs wait": lambda store, _: store.has_queued,
}
"""Each gets a job that waits, prepares, and returns what is counted."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_the_same_whatever_waits(name: str, store: JobStore, redis_client: redis.Redis) -> None:
    found = []
    for number in (FEW, MANY):
        submit(store, number - redis_client.zcard(index_key("queued")))
        for job_id in submit(store, number // 2 - redis_client.zcard(index_key("cancelled")), ENDED):
            store.cancel(job_id)
        [middle] = redis_client.zrange(index_key("queued"), number // 2, number // 2)
        found.append(commands(redis_client, OPERATIONS[name](store, middle)))
    assert found[0] == found[1]
    assert sum(found[0].values()) < 100


def test_counters_and_messages_cost_the_same_whatever_waits(
    store: JobStore, redis_client: redis.Redis, redis_url: str
) -> None:
    queue, found = JobQueue(redis_url), []
    queue.publish("0" * 32)
    for number in (FEW, MANY):
        [job_id, *_] = submit(store, number)
        redis_client.lpush(KEY_PREFIX + QUEUE, *("another message" for _ in range(number)))
        counters = commands(redis_client, lambda: read_counters(redis_client))
        found.append((counters, commands(redis_client, lambda job_id=job_id: queue.publish(job_id))))
    queue.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("has_messages", [True, False])
def test_the_search_for_lost_messages_looks_at_a_bounded_number(
    store: JobStore, redis_client: redis.Redis, has_messages: bool
) -> None:
    submit(store, MANY)
    if has_messages:
        redis_client.lpush(KEY_PREFIX + QUEUE, "a message")
    found = commands(redis_client, lambda: store.take_unpublished([], 30.0))
    assert (found["hmget"], found["eval"]) == (100 if has_messages else 1000, 1)


def test_when_all_messages_are_lost_all_jobs_are_published_in_turn(store: JobStore, redis_client: redis.Redis) -> None:
    jobs = submit(store, 2500)
    for job_id in jobs:
        redis_client.hset(f"spectrum:job:{job_id}", "published_at", 1)
    taken = []
    for expected in (1000, 1000, 500, 0):
        published = store.take_unpublished([], 30.0)
        assert len(published) == expected
        for job_id in published:
            assert store.claim(job_id) is not None
        taken += published
    assert taken == jobs


def test_leases_are_looked_at_together_and_only_lapsed_ones_are_recovered(
    store: JobStore, redis_client: redis.Redis
) -> None:
    jobs = submit(store, 2_300)
    for job_id in jobs:
        store.claim(job_id)
    lapsed = [jobs[0], jobs[1_500], jobs[-1]]
    for job_id in lapsed:
        redis_client.hset(f"spectrum:job:{job_id}", "lease_until", 1)
    recovered: list[str] = []
    found = commands(redis_client, lambda: recovered.extend(store.recover_lost()))
    assert recovered == lapsed
    assert found["eval"] == 4 + 1 + len(lapsed)  # running ones, a thousand at a time; cancelling ones; the lapsed ones
    assert [store.get(job_id).state for job_id in lapsed] == 3 * ["queued"]
    assert redis_client.zcard(index_key("running")) == len(jobs) - len(lapsed)


def test_a_service_reads_a_thousand_workers_once_for_many_submissions(redis_client: redis.Redis) -> None:
    names = count()

    def start_worker() -> None:
        status = {"device": "cpu", "memory_bytes": 2**30 - next(names), "concurrency": 1, "code_version": "1"}
        register(redis_client, WorkerStatus.model_validate({"name": f"host-{next(names)}", **status}))

    workers = RecentWorkers(redis_client)
    assert workers.available_bytes() is None
    for _ in range(1000):
        start_worker()
    assert workers.available_bytes() == 2**30 - 1998  # a first worker is seen at once
    asked = commands(redis_client, lambda: [(workers.available_bytes(), workers.result_versions()) for _ in range(100)])
    assert asked.get("hmget", 0) <= 1  # none, unless a second has passed meanwhile
