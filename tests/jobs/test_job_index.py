"""Pages of jobs by tag, state and owner, which are found by an index and not by a look at every job."""

from itertools import count

import pytest
import redis

from hessian_spectrum.jobs.record import QUEUED, JobRecord, QuotaError, Quotas
from hessian_spectrum.jobs.scripts import INDEX, STORED_BYTES, tag_index
from hessian_spectrum.jobs.store import JobStore
from tests.fixtures.jobs import create_job

ANNA, BOB = "a" * 12, "b" * 12


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=2)


def submit(store: JobStore, owner: str | None = None, **tags: str) -> JobRecord:
    return create_job(store, tags=tags, owner=owner)[0]


def ids(records: list[JobRecord]) -> list[str]:
    return [record.id for record in records]


def calls(client: redis.Redis) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()}


def test_a_page_by_tag_looks_at_its_own_jobs_alone(store: JobStore, redis_client: redis.Redis) -> None:
    wanted = [submit(store, ANNA, run=str(number), sweep="one").id for number in range(300)]
    submit(store, BOB, run="7", sweep="one")
    redis_client.config_resetstat()
    assert ids(store.page(tag=("run", "7"), owner=ANNA, size=50)) == [wanted[7]]
    assert calls(redis_client)["hgetall"] == 1
    first = ids(store.page(tag=("sweep", "one"), owner=ANNA, size=200))
    rest = ids(store.page(tag=("sweep", "one"), owner=ANNA, size=200, after=first[-1]))
    assert first + rest == wanted[::-1]
    assert len(store.page(tag=("run", "7"), size=50)) == 2
    assert store.page(tag=("run", "none"), size=50) == []
    assert store.page(tag=("none", "7"), size=50) == []


def test_a_page_by_tag_and_state_looks_at_its_own_jobs_alone(store: JobStore, redis_client: redis.Redis) -> None:
    jobs = [submit(store, sweep="odd" if number % 2 else "even").id for number in range(100)]
    for job_id in jobs[:50:5]:
        store.cancel(job_id)
    redis_client.config_resetstat()
    assert ids(store.page(state="cancelled", tag=("sweep", "odd"), size=50)) == jobs[45::-10]
    assert calls(redis_client)["hgetall"] == 5
    assert ids(store.page(state="cancelled", tag=("sweep", "even"), size=2)) == [jobs[40], jobs[30]]
    assert ids(store.page(state="cancelled", tag=("sweep", "even"), size=2, after=jobs[30])) == [jobs[20], jobs[10]]
    assert store.page(state="succeeded", tag=("sweep", "even"), size=50) == []


@pytest.mark.parametrize("tag", [("", ""), ("a:b", "c"), ("a", "b:c"), ("größe", "α\u2028🙂"), ('"', "\\")])
def test_every_tag_finds_its_job_and_no_other(store: JobStore, tag: tuple[str, str]) -> None:
    wanted = submit(store, **dict([tag])).id
    submit(store, **{"a:b": "c:d", "a": "b"})
    assert ids(store.page(tag=tag, size=50)) == [wanted]


def test_who_hears_of_a_job_by_index_forgets_it_with_the_job(store: JobStore, redis_client: redis.Redis) -> None:
    job = submit(store, ANNA, run="1")
    assert redis_client.hgetall(STORED_BYTES).keys() == {"records", f"records:{ANNA}", "requests", f"requests:{ANNA}"}
    assert redis_client.zcard(f"{INDEX}{ANNA}:{tag_index('run', '1')}") == 1
    store.cancel(job.id)
    assert redis_client.hgetall(STORED_BYTES).keys() == {"records", f"records:{ANNA}"}
    store.delete(job.id)
    assert redis_client.keys(f"{INDEX}*") == []
    assert redis_client.exists(STORED_BYTES) == 0


def test_jobs_of_an_earlier_version_are_found_and_counted(store: JobStore, redis_client: redis.Redis) -> None:
    jobs = [submit(store, ANNA, run=str(number)).id for number in range(3)]
    store.cancel(jobs[0])
    without_requests = -sum(len(store.request(job_id)) for job_id in jobs)  # which it kept until jobs ended alone
    for name in ("records", f"records:{ANNA}"):
        redis_client.hincrby(STORED_BYTES, name, without_requests)
    counted = redis_client.hgetall(STORED_BYTES)
    redis_client.delete(STORED_BYTES, f"spectrum:request:{jobs[0]}", *redis_client.keys(f"{INDEX}*tag:*"))
    for job_id in jobs:
        redis_client.hdel(f"spectrum:job:{job_id}", "record_bytes", "request_bytes", "keeps_request")
    newer = submit(store, ANNA, run="2")
    for _ in range(2):  # once is enough
        assert ids(store.page(tag=("run", "2"), owner=ANNA, size=50)) == [newer.id, jobs[2]]
    store.delete(store.cancel(newer.id).id)
    assert redis_client.hgetall(STORED_BYTES) == counted
    for job_id in jobs:
        store.cancel(job_id)
        store.delete(job_id)
    assert redis_client.exists(STORED_BYTES) == 0


def test_a_job_that_a_worker_of_an_earlier_version_ended_leaves_nothing_counted(
    store: JobStore, redis_client: redis.Redis
) -> None:
    job_id = submit(store, ANNA).id
    size = redis_client.hget(f"spectrum:job:{job_id}", "request_bytes")
    store.cancel(job_id)
    redis_client.hset(f"spectrum:job:{job_id}", "request_bytes", size or "")  # which that worker does not know
    for name in ("requests", f"requests:{ANNA}"):
        redis_client.hincrby(STORED_BYTES, name, int(size or 0))
    store.delete(job_id)
    assert redis_client.exists(STORED_BYTES) == 0


def test_records_have_a_quota(store: JobStore, redis_client: redis.Redis) -> None:
    values = (f"{number:0256}" for number in count())
    quotas = {"owner_quotas": Quotas(records=100_000), "total_quotas": Quotas(records=150_000)}

    def fill(owner: str) -> QuotaError:
        for _ in range(20):
            tags = {f"{number:064}": next(values) for number in range(32)}  # all in indexes of their own
            try:
                create_job(store, tags=tags, owner=owner, **quotas)
            except QuotaError as refusal:
                return refusal
        raise AssertionError

    assert (fill(ANNA).what, fill(ANNA).is_owners, fill(ANNA).limit) == ("records", True, 100_000)
    assert (fill(BOB).what, fill(BOB).is_owners, fill(BOB).limit) == ("records", False, 150_000)
    used = sum(int(redis_client.memory_usage(key, samples=0) or 0) for key in redis_client.keys("spectrum:j*"))
    assert 0.5 * 150_000 < used < 1.2 * 150_000
    first = store.page(owner=ANNA, size=1)[0].id
    store.cancel(first)
    store.delete(first)
    assert submit(store, ANNA).state == "queued"


def test_events_repeat_no_tags(store: JobStore, redis_client: redis.Redis) -> None:
    tags = {f"{number:064}": 256 * "x" for number in range(32)}
    job_id = create_job(store, tags=tags)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    store.renew(lease, QUEUED)
    events = redis_client.xrange(f"spectrum:events:{job_id}")
    assert len(events) == 3
    assert not any("tags" in fields for _, fields in events)
