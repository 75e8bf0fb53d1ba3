"""The job store against a real server: who may write what, and when."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from hessian_spectrum.api_schemas.jobs import Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.creation import CachedResult, JobSpecification, KeyReusedError
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue
from hessian_spectrum.jobs.record import (
    KEPT_REQUEST_BYTES,
    QUEUED,
    RECORD_BYTES,
    JobRecord,
    Lease,
    LeaseLostError,
    QuotaError,
    Quotas,
    new_job_id,
)
from hessian_spectrum.jobs.scripts import CHANGES, COUNTERS, JOB, STORED_BYTES, UNUSED_RESULTS
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from tests.fixtures.jobs import create_job

PROBLEM = Problem(title="No", status=500)


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=2)


@pytest.fixture
def hasty_store(redis_client: redis.Redis) -> JobStore:
    """Leases end at once."""
    return JobStore(redis_client, lease_seconds=0.0, max_attempts=2)


def submit(store: JobStore, **tags: str) -> JobRecord:
    record, replayed = create_job(store, tags=tags)
    assert not replayed
    return record


def test_a_new_job_is_queued_and_read_back_as_written(store: JobStore) -> None:
    record = submit(store, paper="figure 2")
    assert record.state == "queued"
    assert record.tags == {"paper": "figure 2"}
    assert store.get(record.id) == record


def test_a_key_stands_for_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_job(store, idempotency_key="key"), range(32)))
    assert len({record.id for record, _ in made}) == 1
    assert [replayed for _, replayed in made].count(False) == 1
    job_id = made[0][0].id
    assert [record.id for record in store.page(size=100)] == [job_id]
    found = store.creator.created_before(["{}"], "key")
    assert found is not None
    assert [record.id for record in found] == [job_id]
    assert store.creator.created_before(["{}"], "another") is None
    for call in (
        lambda: create_job(store, "[]", idempotency_key="key"),
        lambda: store.creator.created_before(["[]"], "key"),
    ):
        with pytest.raises(KeyReusedError):
            call()
    assert create_job(store, idempotency_key="another")[0].id != job_id


def test_a_key_is_free_again_when_its_job_is_deleted(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = create_job(store, idempotency_key="key")[0].id
    assert 0 < redis_client.ttl(redis_client.keys("spectrum:idempotency:*")[0]) <= 24 * 3600
    store.cancel(job_id)
    store.delete(job_id)
    assert store.creator.created_before(["[]"], "key") is None
    record, replayed = create_job(store, "[]", idempotency_key="key")
    assert record.id != job_id
    assert not replayed


def test_ids_sort_by_age() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_job_id())
        time.sleep(0.001)
    assert ids == sorted(ids)
    assert len(set(ids)) == 5


def test_unknown_jobs_are_named(store: JobStore) -> None:
    for call in (store.get, store.cancel, store.delete):
        with pytest.raises(UnknownJobError):
            call("0" * 32)
    assert store.claim("0" * 32) is None


def test_one_of_many_claims_wins(store: JobStore) -> None:
    job_id = submit(store).id
    with ThreadPoolExecutor(8) as pool:
        leases = [lease for lease in pool.map(lambda _: store.claim(job_id), range(32)) if lease]
    assert len(leases) == 1
    assert store.get(job_id).attempt == 1


def test_a_job_succeeds_with_its_result(store: JobStore) -> None:
    job_id = submit(store).id
    lease = store.claim(job_id)
    assert lease is not None
    assert store.renew(lease, Progress(phase="products", done=3, total=9, unit="")) == "running"
    assert store.get(job_id).progress.done == 3
    assert store.succeed(lease, "a" * 64) == "succeeded"
    record = store.get(job_id)
    assert record.ended
    assert record.result_digest == "a" * 64
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.created_at <= record.started_at <= record.finished_at


def test_interim_results_are_unused_once_another_or_the_end_replaces_them(
    hasty_store: JobStore, redis_client: redis.Redis
) -> None:
    store = hasty_store
    endings: list[Callable[[Lease], object]] = [
        lambda lease: store.succeed(lease, "f" * 64),
        lambda lease: store.fail(lease, PROBLEM),
        lambda lease: (store.cancel(lease.job_id), store.close_cancelled(lease)),
        lambda lease: store.mark_worker_lost(lease.job_id, "", problem=PROBLEM),
        lambda lease: (store.cancel(lease.job_id), time.sleep(0.1), store.recover_lost()),
    ]
    for number, end in enumerate(endings):
        job_id = submit(store).id
        lease = store.claim(job_id)
        assert lease is not None
        digests = [f"{number}{part}" * 32 for part in "abc"]
        for digest in digests[:2]:
            store.renew(lease, None, interim_digest=digest)
            assert store.get(job_id).interim_digest == digest
        store.renew(lease, QUEUED)
        assert store.get(job_id).interim_digest == digests[1]
        assert redis_client.sismember(UNUSED_RESULTS, digests[0])
        assert not redis_client.sismember(UNUSED_RESULTS, digests[1])
        end(lease)
        assert store.get(job_id).ended
        assert store.get(job_id).interim_digest is None
        assert redis_client.sismember(UNUSED_RESULTS, digests[1])


def test_an_ended_job_can_no_longer_be_written(store: JobStore) -> None:
    job_id = submit(store).id
    lease = store.claim(job_id)
    assert lease is not None
    store.fail(lease, PROBLEM)
    for write in (lambda: store.succeed(lease, "a" * 64), lambda: store.renew(lease, None)):
        with pytest.raises(LeaseLostError):
            write()
    assert store.get(job_id).state == "failed"
    assert store.get(job_id).error == PROBLEM
    assert store.claim(job_id) is None


def test_cancelling_a_queued_job_ends_it(store: JobStore) -> None:
    job_id = submit(store).id
    assert store.cancel(job_id).state == "cancelled"
    assert store.claim(job_id) is None


def test_cancelling_a_running_job_tells_its_worker_and_wins_over_success(store: JobStore) -> None:
    job_id = submit(store).id
    lease = store.claim(job_id)
    assert lease is not None
    assert store.cancel(job_id).state == "cancelling"
    assert store.renew(lease, None) == "cancelling"
    assert store.succeed(lease, "a" * 64) == "cancelled"
    record = store.get(job_id)
    assert record.state == "cancelled"
    assert record.result_digest is None


def test_cancelling_an_ended_job_changes_nothing(store: JobStore) -> None:
    job_id = submit(store).id
    lease = store.claim(job_id)
    assert lease is not None
    store.succeed(lease, "a" * 64)
    assert store.cancel(job_id).state == "succeeded"


def test_a_job_whose_worker_is_silent_goes_back_and_its_old_worker_is_fenced_off(hasty_store: JobStore) -> None:
    job_id = submit(hasty_store).id
    lost = hasty_store.claim(job_id)
    assert lost is not None
    assert hasty_store.recover_lost() == [job_id]
    assert hasty_store.get(job_id).state == "queued"
    assert hasty_store.take_unpublished([job_id], 30.0) == [job_id]
    new = hasty_store.claim(job_id)
    assert new is not None
    assert new.attempt == 2
    with pytest.raises(LeaseLostError):
        hasty_store.succeed(lost, "a" * 64)
    assert hasty_store.succeed(new, "b" * 64) == "succeeded"


def test_a_leased_job_is_left_alone(store: JobStore) -> None:
    job_id = submit(store).id
    store.claim(job_id)
    assert store.recover_lost() == []
    assert store.get(job_id).state == "running"


def test_no_worker_loses_its_job_while_redis_stands_still(hasty_store: JobStore, redis_client: redis.Redis) -> None:
    job_id = submit(hasty_store).id
    assert hasty_store.claim(job_id) is not None
    redis_client.client_pause(900)
    with pytest.raises(redis.TimeoutError):
        hasty_store.recover_lost()
    assert hasty_store.get(job_id).state == "running"
    assert hasty_store.recover_lost() == [job_id]


def test_a_job_that_loses_every_worker_fails(hasty_store: JobStore) -> None:
    job_id = submit(hasty_store).id
    for _ in range(2):
        hasty_store.claim(job_id)
        hasty_store.recover_lost()
    record = hasty_store.get(job_id)
    assert record.state == "failed"
    assert record.attempt == 2
    assert record.error is not None
    assert record.error.type == "/problems/workers-lost"


def test_a_job_given_back_has_lost_no_worker(hasty_store: JobStore) -> None:
    job_id = submit(hasty_store).id
    for attempt in (1, 2, 3, 4):
        lease = hasty_store.claim(job_id)
        assert lease is not None
        assert lease.attempt == attempt
        hasty_store.renew(lease, Progress(phase="products", done=3, total=9, unit=""))
        assert hasty_store.requeue(lease) == "queued"
        assert hasty_store.get(job_id).progress.phase == "queued"
        with pytest.raises(LeaseLostError):
            hasty_store.requeue(lease)
    for state in ("queued", "failed"):
        hasty_store.claim(job_id)
        hasty_store.recover_lost()
        assert hasty_store.get(job_id).state == state


def test_a_cancelled_job_is_not_given_back(store: JobStore) -> None:
    job_id = submit(store).id
    lease = store.claim(job_id)
    assert lease is not None
    store.cancel(job_id)
    assert store.requeue(lease) == "cancelled"
    assert store.get(job_id).finished_at is not None


def test_a_cancelled_job_without_worker_ends(hasty_store: JobStore) -> None:
    job_id = submit(hasty_store).id
    hasty_store.claim(job_id)
    hasty_store.cancel(job_id)
    assert hasty_store.recover_lost() == [job_id]
    assert hasty_store.get(job_id).state == "cancelled"


def test_a_lost_message_is_sent_again_once(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = submit(store).id
    assert store.take_unpublished([], 30.0) == []
    redis_client.hset(f"spectrum:job:{job_id}", "published_at", time.time() - 31)
    redis_client.rpush(KEY_PREFIX + QUEUE, "a message of nobody knows whom, behind which this one may wait")
    assert store.take_unpublished([], 30.0) == []
    redis_client.delete(KEY_PREFIX + QUEUE)
    assert store.take_unpublished([], 30.0) == [job_id]
    assert store.take_unpublished([], 30.0) == []


def test_a_lost_message_is_missed_although_others_wait(
    store: JobStore, redis_client: redis.Redis, redis_url: str
) -> None:
    lost, behind, following = (submit(store).id for _ in range(3))
    queue = JobQueue(redis_url)
    queue.publish(following)
    queue.publish(behind)
    queue.close()
    redis_client.hset(f"spectrum:job:{following}", "published_at", time.time() - 100)
    redis_client.hset(f"spectrum:job:{lost}", "published_at", time.time() - 120)
    assert store.take_unpublished([], 30.0) == []
    redis_client.hset(f"spectrum:job:{lost}", "published_at", time.time() - 131)
    assert store.take_unpublished([], 30.0) == [lost]
    assert store.take_unpublished([], 30.0) == []


def test_pages_hold_every_job_once_newest_first(store: JobStore) -> None:
    ids = [submit(store, parity="even" if i % 2 == 0 else "odd").id for i in range(7)]
    store.cancel(ids[3])
    seen: list[str] = []
    while page := store.page(size=3, after=seen[-1] if seen else None):
        assert len(page) <= 3
        seen += [record.id for record in page]
    assert seen == ids[::-1]
    assert [r.id for r in store.page(state="cancelled", size=3)] == [ids[3]]
    assert [r.id for r in store.page(state="queued", tag=("parity", "odd"), size=9)] == [ids[5], ids[1]]


def test_a_result_lives_as_long_as_a_job_needs_it(store: JobStore) -> None:
    digest = "c" * 64
    jobs = [submit(store).id for _ in range(2)]
    for job_id in jobs:
        lease = store.claim(job_id)
        assert lease is not None
        store.succeed(lease, digest)
    assert store.delete(jobs[0]) == (True, None)
    assert store.delete(jobs[1]) == (True, digest)
    assert store.page(size=9) == []


def test_an_active_job_is_not_deleted(store: JobStore) -> None:
    job_id = submit(store).id
    assert store.delete(job_id) == (False, None)
    assert store.get(job_id).state == "queued"


def test_run_time_is_that_of_all_attempts(hasty_store: JobStore, redis_client: redis.Redis) -> None:
    job_id = submit(hasty_store).id
    most = 0.1
    for attempt in range(2):
        started = time.monotonic()
        lease = hasty_store.claim(job_id)
        assert lease is not None
        if attempt == 0:
            assert lease.run_seconds == 0
        else:
            assert 0.2 <= lease.run_seconds < most
        for _ in range(2):
            time.sleep(0.1)
            hasty_store.renew(lease, None)
        most += time.monotonic() - started
        hasty_store.recover_lost()
        time.sleep(0.2)  # in the queue
    assert 0.4 <= float(redis_client.hget(f"spectrum:job:{job_id}", "run_seconds") or "") < most


def test_a_process_that_is_gone_loses_its_lease_and_no_other(store: JobStore) -> None:
    job_id = submit(store).id
    store.claim(job_id, "worker-1-2")
    for stranger in ("", "worker-1", "worker-1-22"):
        assert store.mark_worker_lost(job_id, stranger, problem=PROBLEM) is None
    assert store.recover_lost() == []
    assert store.mark_worker_lost(job_id, "worker-1-2") == "running"
    assert store.recover_lost() == [job_id]
    assert store.get(job_id).state == "queued"
    assert store.mark_worker_lost(job_id, "worker-1-2", problem=PROBLEM) is None


def test_a_process_that_is_gone_can_end_its_job(store: JobStore) -> None:
    ended, cancelled = (submit(store).id for _ in range(2))
    for job_id in (ended, cancelled):
        store.claim(job_id, "a")
    store.cancel(cancelled)
    assert store.mark_worker_lost(ended, "a", problem=PROBLEM) == "failed"
    record = store.get(ended)
    assert (record.state, record.error, record.attempt) == ("failed", PROBLEM, 1)
    assert record.finished_at is not None
    assert store.mark_worker_lost(cancelled, "a", problem=PROBLEM) == "cancelling"
    store.recover_lost()
    assert store.get(cancelled).state == "cancelled"


CACHE_KEY, VERSION = "e" * 64, "f" * 64


def compute(store: JobStore, digest: str, version: str = VERSION) -> str:
    record, _ = create_job(store, cache_key=CACHE_KEY)
    lease = store.claim(record.id)
    assert lease is not None
    store.succeed(lease, digest, version)
    return record.id


def ask(store: JobStore, key: str | None = None) -> JobRecord:
    """With the answer that is known, if there is one."""
    answer = next(iter(store.cached_results(CACHE_KEY, [VERSION])), None)
    return create_job(store, idempotency_key=key, cache_key=CACHE_KEY, cached_result=answer)[0]


def test_a_result_answers_the_same_question_to_the_same_code(store: JobStore) -> None:
    assert store.cached_results(CACHE_KEY, [VERSION]) == []
    compute(store, "a" * 64)
    assert [answer.result_digest for answer in store.cached_results(CACHE_KEY, ["0", VERSION])] == ["a" * 64]
    assert (
        store.cached_results(CACHE_KEY, ["0"])
        == store.cached_results("0" * 64, [VERSION])
        == store.cached_results(CACHE_KEY, [])
        == []
    )
    record = ask(store)
    assert (record.state, record.cached, record.result_digest) == ("succeeded", True, "a" * 64)
    assert record == store.get(record.id)
    assert [each.id for each in store.page(state="succeeded", size=1)] == [record.id]
    assert store.claim(record.id) is None
    compute(store, "b" * 64)
    assert ask(store).result_digest == "b" * 64


def test_an_answer_is_forgotten_with_its_last_job(store: JobStore, redis_client: redis.Redis) -> None:
    first, others = compute(store, "a" * 64), [ask(store).id for _ in range(2)]
    assert store.delete(first) == (True, None)
    (answer,) = store.cached_results(CACHE_KEY, [VERSION])
    assert store.delete(others[0]) == (True, None)
    assert store.delete(others[1]) == (True, "a" * 64)
    assert store.cached_results(CACHE_KEY, [VERSION]) == []
    late, _ = create_job(store, cache_key=CACHE_KEY, cached_result=answer)  # known just before
    assert (late.state, late.cached) == ("queued", False)
    store.cancel(late.id)
    store.delete(late.id)
    store.discard_unused_result("a" * 64)
    assert set(redis_client.keys("*")) == {CHANGES, COUNTERS}


def test_a_plan_is_kept_until_the_job_ends(store: JobStore, redis_client: redis.Redis) -> None:
    compute(store, "a" * 64)
    jobs = [create_job(store, plan='{"n":1}')[0].id for _ in range(2)]
    assert store.plan(jobs[0]) == '{"n":1}'
    assert redis_client.hget(STORED_BYTES, "requests") == str(2 * len('{}{"n":1}'))
    lease = store.claim(jobs[0])
    assert lease is not None
    assert store.requeue(lease) == "queued"
    assert store.plan(jobs[0]) == '{"n":1}'
    store.cancel(jobs[0])
    assert store.plan(jobs[0]) is None
    cached = store.cached_results(CACHE_KEY, [VERSION])[0]
    done = create_job(store, cache_key=CACHE_KEY, cached_result=cached, plan='{"n":1}')[0]
    assert (done.state, store.plan(done.id)) == ("succeeded", None)
    assert redis_client.hget(STORED_BYTES, "requests") == str(len('{}{"n":1}'))


def test_an_older_result_that_ends_leaves_the_newer_answer(store: JobStore) -> None:
    first, _ = compute(store, "a" * 64), compute(store, "b" * 64)
    assert store.delete(first) == (True, "a" * 64)
    assert ask(store).result_digest == "b" * 64


def test_a_cancelled_or_failed_job_answers_nothing(store: JobStore) -> None:
    for _ in range(2):
        record, _ = create_job(store, cache_key=CACHE_KEY)
        lease = store.claim(record.id)
        assert lease is not None
        store.cancel(record.id)
        store.succeed(lease, "a" * 64, VERSION)
    assert store.cached_results(CACHE_KEY, [VERSION]) == []


def test_many_with_one_key_are_one_answer(store: JobStore) -> None:
    compute(store, "a" * 64)
    with ThreadPoolExecutor(8) as pool:
        assert len({record.id for record in pool.map(lambda _: ask(store, "key"), range(32))}) == 1
    assert len(store.page(size=9)) == 2


def test_a_worker_may_say_why_it_leaves_a_job(hasty_store: JobStore) -> None:
    """The last one's reason is that of the failure, unless another died without a word after it."""
    for silent in (False, True):
        job_id = submit(hasty_store).id
        for attempt in (1, 2):
            lease = hasty_store.claim(job_id)
            assert lease is not None
            if attempt == 1 or not silent:
                hasty_store.release_after_error(lease, PROBLEM)
            assert hasty_store.recover_lost() == [job_id]
            with pytest.raises(LeaseLostError):
                hasty_store.release_after_error(lease, PROBLEM)
        error = hasty_store.get(job_id).error
        assert error is not None
        assert (error.type == "/problems/workers-lost") is silent


def test_a_call_whose_answer_was_lost_may_be_sent_again(store: JobStore, redis_client: redis.Redis) -> None:
    sent: list[tuple[object, ...]] = []
    send = redis_client.eval

    def send_twice(*arguments: object) -> object:
        sent.append(arguments)
        send(*arguments)
        return send(*arguments)

    redis_client.eval = send_twice  # type: ignore[assignment,method-assign]
    job, was_there = create_job(store, idempotency_key="key")
    assert not was_there
    assert [found.id for found in store.page(size=10)] == [job.id]
    lease = store.claim(job.id)
    assert lease is not None
    assert lease.attempt == 1
    assert store.renew(lease, None) == "running"
    assert len(sent) == 3


def test_a_long_request_is_kept_until_its_job_ends(store: JobStore, redis_client: redis.Redis) -> None:
    text = "[" + " " * KEPT_REQUEST_BYTES + "]"
    ended, cancelled, waiting = (create_job(store, text)[0].id for _ in range(3))
    lease = store.claim(ended)
    assert lease is not None
    assert store.request(ended) == text
    store.fail(lease, PROBLEM)
    store.cancel(cancelled)
    assert redis_client.keys("spectrum:request:*") == [f"spectrum:request:{waiting}"]
    with pytest.raises(UnknownJobError):
        store.request(ended)


def test_a_short_request_is_kept_until_its_job_is_deleted(store: JobStore, redis_client: redis.Redis) -> None:
    computed = compute(store, "a" * 64)
    cached = ask(store)
    assert cached.cached
    cancelled = create_job(store)[0].id
    store.cancel(cancelled)
    num_bytes = {job_id: int(redis_client.hget(JOB + job_id, "record_bytes") or 0) for job_id in (computed, cancelled)}
    assert redis_client.hget(STORED_BYTES, "requests") is None
    for job_id in (computed, cached.id, cancelled):
        assert store.request(job_id) == "{}"
        store.delete(job_id)
        with pytest.raises(UnknownJobError):
            store.request(job_id)
    assert num_bytes == dict.fromkeys(num_bytes, RECORD_BYTES + len("{}") + len("{}"))
    assert redis_client.keys("spectrum:request:*") == []
    assert redis_client.hget(STORED_BYTES, "records") is None


def specifications(*texts: str, **fields: Any) -> list[JobSpecification]:
    return [JobSpecification("spectrum", text, **fields) for text in texts]


def test_a_batch_is_created_once_and_in_order(store: JobStore) -> None:
    first, replayed = store.creator.create(specifications(*(f"[{i}]" for i in range(300))), idempotency_key="key")
    assert not replayed
    ids = [record.id for record in first]
    assert ids == sorted(ids)
    assert [store.request(job_id) for job_id in ids] == [f"[{i}]" for i in range(300)]
    assert [record.id for record in store.page(size=200)] == ids[:99:-1]
    again, replayed = store.creator.create(specifications(*(f"[{i}]" for i in range(300))), idempotency_key="key")
    assert replayed
    assert again == first
    assert store.creator.created_before([f"[{i}]" for i in range(300)], "key") == first
    with pytest.raises(KeyReusedError):
        store.creator.create(specifications("[0]"), idempotency_key="key")
    assert len(store.page(size=400)) == 300


def test_a_batch_beyond_a_quota_writes_nothing(store: JobStore, redis_client: redis.Redis) -> None:
    quotas = {
        "jobs": Quotas(jobs=4),
        "requests": Quotas(requests=4 * len("[1]")),
        "records": Quotas(records=4 * (RECORD_BYTES + len("[1]") + len("{}"))),
    }
    for what, quota in quotas.items():
        before = sorted(redis_client.keys("*")), redis_client.hgetall(STORED_BYTES)
        for refused in ({"owner_quotas": quota, "owner": "anna"}, {"total_quotas": quota}):
            with pytest.raises(QuotaError) as caught:
                store.creator.create(specifications(*["[1]"] * 5), idempotency_key="key", **refused)  # type: ignore[arg-type]
            assert (caught.value.what, caught.value.is_owners) == (what, "owner" in refused)
        assert (sorted(redis_client.keys("*")), redis_client.hgetall(STORED_BYTES)) == before
        records, _ = store.creator.create(specifications(*["[1]"] * 4), total_quotas=quota)
        for record in records:
            store.cancel(record.id)
            store.delete(record.id)


def test_a_batch_may_have_cached_results(store: JobStore) -> None:
    compute(store, "a" * 64)
    (answer,) = store.cached_results(CACHE_KEY, [VERSION])
    gone = CachedResult("spectrum:answers:none", "9" * 64)
    records, _ = store.creator.create(
        [
            *specifications("[1]"),
            *specifications("[2]", cached_result=answer),
            *specifications("[3]", cached_result=gone),
        ],
        total_quotas=Quotas(jobs=2),
    )
    assert [(record.state, record.cached) for record in records] == [
        ("queued", False),
        ("succeeded", True),
        ("queued", False),
    ]
    assert [store.get(record.id) for record in records] == records


def test_a_redis_without_memory_takes_no_new_jobs_and_loses_none(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = create_job(store)[0].id
    lease = store.claim(job_id)
    assert lease is not None
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.OutOfMemoryError):
            create_job(store)
        assert store.renew(lease, None, 3) == "running"
        assert store.succeed(lease, "0" * 64) == "succeeded"
    finally:
        redis_client.config_set("maxmemory", 0)
