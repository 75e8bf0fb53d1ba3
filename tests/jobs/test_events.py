"""Every change of a job is an event of it, written with the change."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import redis

from hessian_spectrum.api_schemas.jobs import Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.connection import connect_async
from hessian_spectrum.jobs.events import BEFORE_ALL, EventLog, JobEvent
from hessian_spectrum.jobs.store import JobStore
from tests.fixtures.jobs import create_job

T = TypeVar("T")


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=2)


@pytest.fixture
def ask(redis_url: str) -> Callable[[Callable[[EventLog], Coroutine[Any, Any, T]]], T]:
    """Runs one question to the events."""

    def run(question: Callable[[EventLog], Coroutine[Any, Any, T]]) -> T:
        async def connected() -> T:
            async with connect_async(redis_url) as client:
                return await question(EventLog(client))

        return asyncio.run(connected())

    return run


def states(events: list[JobEvent]) -> list[tuple[str, str, int]]:
    return [(event.record.state, event.record.progress.phase, event.record.attempt) for event in events]


def test_the_events_of_a_job_are_its_records_in_order(store: JobStore, ask: Any, redis_client: redis.Redis) -> None:
    seen = [create_job(store, tags={"paper": "one"})[0]]
    job_id = seen[0].id
    lease = store.claim(job_id)
    assert lease is not None
    seen.append(store.get(job_id))
    store.renew(lease, Progress(phase="products", done=3, total=9, unit=""))
    seen.append(store.get(job_id))
    store.renew(lease, None)
    store.requeue(lease)
    seen.append(store.get(job_id))
    lease = store.claim(job_id)
    assert lease is not None
    seen.append(store.get(job_id))
    store.cancel(job_id)
    seen.append(store.get(job_id))
    store.succeed(lease, "a" * 64)
    seen.append(store.get(job_id))
    events = ask(lambda log: log.after(job_id, BEFORE_ALL))
    assert [event.record for event in events] == seen
    assert ask(lambda log: log.newest(job_id)) == events[-1]
    for place, event in enumerate(events):
        assert ask(lambda log, found=event: log.holds(job_id, found.id))
        assert ask(lambda log, found=event: log.after(job_id, found.id)) == events[place + 1 :]
    assert not any("token" in fields for _, fields in redis_client.xrange(f"spectrum:events:{job_id}"))
    assert 0 < redis_client.ttl(f"spectrum:events:{job_id}") <= 3600
    store.delete(job_id)
    assert redis_client.keys(f"spectrum:events:{job_id}") == []
    assert ask(lambda log: log.newest(job_id)) is None


def test_lost_workers_and_failures_are_told(redis_client: redis.Redis, ask: Any) -> None:
    store = JobStore(redis_client, lease_seconds=0.0, max_attempts=2)
    job_id = create_job(store)[0].id
    for _ in range(2):
        store.claim(job_id)
        store.recover_lost()
    events = ask(lambda log: log.after(job_id, BEFORE_ALL))
    assert [event.record.state for event in events] == ["queued", "running", "queued", "running", "failed"]
    assert events[-1].record.error.type == "/problems/workers-lost"
    failing = JobStore(redis_client, lease_seconds=9.0, max_attempts=2)
    job_id = create_job(failing)[0].id
    lease = failing.claim(job_id)
    assert lease is not None
    failing.fail(lease, Problem(title="No", status=500))
    assert ask(lambda log: log.newest(job_id)).record == failing.get(job_id)


def test_old_events_are_forgotten_and_then_not_held(store: JobStore, ask: Any, redis_client: redis.Redis) -> None:
    job_id = create_job(store)[0].id
    first = ask(lambda log: log.newest(job_id))
    lease = store.claim(job_id)
    assert lease is not None
    for done in range(400):
        store.renew(lease, Progress(phase="products", done=done, total=400, unit=""))
    assert redis_client.xlen(f"spectrum:events:{job_id}") <= 250
    assert not ask(lambda log: log.holds(job_id, first.id))
    assert redis_client.ttl(f"spectrum:events:{job_id}") == -1


@pytest.mark.parametrize("event_id", ["", "x", "1", "1-", "0-0", "9" * 40 + "-1", "1-1\n", "5-5", "+", "$"])
def test_what_is_no_event_is_not_held(store: JobStore, ask: Any, event_id: str) -> None:
    job_id = create_job(store)[0].id
    assert not ask(lambda log: log.holds(job_id, event_id))


def test_changes_name_the_jobs(store: JobStore, ask: Any) -> None:
    place = ask(lambda log: log.newest_change())
    ids = {create_job(store)[0].id for _ in range(3)}
    place, changed = ask(lambda log: log.changes(place))
    assert changed == ids
    store.cancel(min(ids))
    place, changed = ask(lambda log: log.changes(place))
    assert changed == {min(ids)}
