"""Messages about ended jobs: one for each end of a job, whatever ends it, and each for one sender at a time."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.creation import CachedResult, JobSpecification
from hessian_spectrum.jobs.receivers import is_receiver, listed_receivers, receiver_of
from hessian_spectrum.jobs.record import RECORD_BYTES, JobRecord, Lease
from hessian_spectrum.jobs.retention import Retention
from hessian_spectrum.jobs.scripts import CHANGES, COUNTERS, EVENTS, STORED_BYTES, WEBHOOKS
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.webhooks import ClaimedMessage, WebhookQueue
from tests.fixtures.jobs import create_job

PROBLEM = Problem(title="No", status=500)
URL = "http://Lab.example:8080/hook?token=secret"
RECEIVER = "lab.example:8080"


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=1)


@pytest.fixture
def queue(redis_client: redis.Redis) -> WebhookQueue:
    return WebhookQueue(redis_client)


def submit(store: JobStore, **options: Any) -> JobRecord:
    return create_job(store, webhook=URL, **options)[0]


def claimed(store: JobStore, job_id: str) -> Lease:
    lease = store.claim(job_id)
    assert lease is not None
    return lease


def waiting(client: redis.Redis) -> dict[str, list[str]]:
    return {str(key): client.zrange(key, 0, -1) for key in client.keys(f"{WEBHOOKS}*")}


def lose_worker(store: JobStore, job_id: str) -> None:
    claimed(store, job_id)
    store.mark_worker_lost(job_id, "")
    store.recover_lost()


def cancel_running(store: JobStore, job_id: str, end: Callable[[Lease], object]) -> None:
    lease = claimed(store, job_id)
    store.cancel(job_id)
    end(lease)


ENDS: dict[str, tuple[str, Callable[[JobStore, str], object]]] = {
    "succeeds": ("succeeded", lambda store, i: store.succeed(claimed(store, i), "digest")),
    "fails": ("failed", lambda store, i: store.fail(claimed(store, i), PROBLEM)),
    "cancelled while queued": ("cancelled", lambda store, i: store.cancel(i)),
    "cancelled while running": (
        "cancelled",
        lambda store, i: cancel_running(store, i, store.close_cancelled),
    ),
    "cancelled before its result": (
        "cancelled",
        lambda store, i: cancel_running(store, i, lambda lease: store.succeed(lease, "digest")),
    ),
    "cancelled while its worker stops": ("cancelled", lambda store, i: cancel_running(store, i, store.requeue)),
    "cancelled while its worker is lost": (
        "cancelled",
        lambda store, i: cancel_running(store, i, lambda _: (store.mark_worker_lost(i, ""), store.recover_lost())),
    ),
    "kills its worker": (
        "failed",
        lambda store, i: (claimed(store, i), store.mark_worker_lost(i, "", problem=PROBLEM)),
    ),
    "loses its workers": ("failed", lose_worker),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_leaves_one_message(store: JobStore, redis_client: redis.Redis, end: str) -> None:
    job_id = submit(store).id
    create_job(store)  # without a webhook
    assert waiting(redis_client) == {}
    state, finish = ENDS[end]
    finish(store, job_id)
    assert store.get(job_id).state == state
    assert waiting(redis_client) == {WEBHOOKS + RECEIVER: [job_id]}


def test_a_job_without_a_webhook_leaves_none(store: JobStore, redis_client: redis.Redis) -> None:
    for _, finish in ENDS.values():
        finish(store, create_job(store)[0].id)
    assert waiting(redis_client) == {}


def test_what_does_not_end_a_job_leaves_none(store: JobStore, redis_client: redis.Redis) -> None:
    job_id = submit(store).id
    store.requeue(claimed(store, job_id))
    lease = claimed(store, job_id)
    store.renew(lease, None)
    store.cancel(job_id)
    assert waiting(redis_client) == {}


def test_cached_results_leave_a_message_each(store: JobStore, queue: WebhookQueue, redis_client: redis.Redis) -> None:
    first = create_job(store, cache_key="key")[0].id
    store.succeed(claimed(store, first), "digest", "version")
    (known,) = store.cached_results("key", ["version"])
    assert submit(store, cached_result=known).state == "succeeded"
    batch = [JobSpecification("spectrum", str(i), webhook=URL, cached_result=known) for i in range(3)]
    store.creator.create([*batch, JobSpecification("spectrum", "4", cached_result=known)])
    assert len(waiting(redis_client)[WEBHOOKS + RECEIVER]) == 4
    lost = CachedResult(known.key, "deleted")
    submit(store, cached_result=lost)  # is computed after all
    assert len(waiting(redis_client)[WEBHOOKS + RECEIVER]) == 4


def test_an_expired_result_is_no_second_end(store: JobStore, queue: WebhookQueue, redis_client: redis.Redis) -> None:
    job_id = submit(store).id
    store.succeed(claimed(store, job_id), "digest")
    message = claim(queue)
    queue.finish(message, "delivered")
    assert Retention(redis_client).expire(job_id, PROBLEM)
    assert waiting(redis_client) == {}


def test_a_deleted_job_leaves_nothing(store: JobStore, queue: WebhookQueue, redis_client: redis.Redis) -> None:
    ids = [submit(store).id for _ in range(2)]
    for job_id in ids:
        store.cancel(job_id)
    message = claim(queue)
    for job_id in ids:
        store.delete(job_id)
    queue.retry(message, 0.0)  # one that was on its way
    assert redis_client.keys("spectrum:*") in ([CHANGES, COUNTERS], [COUNTERS, CHANGES])


def claim(queue: WebhookQueue, lease_seconds: float = 60.0) -> ClaimedMessage:
    message = queue.claim(RECEIVER, lease_seconds=lease_seconds)
    assert message is not None
    return message


def test_a_message_is_claimed_by_one_sender_at_a_time(store: JobStore, queue: WebhookQueue) -> None:
    ids = [submit(store).id for _ in range(2)]
    assert queue.claim(RECEIVER, lease_seconds=60.0) is None
    for job_id in ids:
        store.cancel(job_id)
    assert [claim(queue), claim(queue)] == [ClaimedMessage(job_id, RECEIVER, 1) for job_id in ids]
    assert queue.claim(RECEIVER, lease_seconds=60.0) is None
    assert queue.claim("other.example:80", lease_seconds=60.0) is None


def test_a_message_whose_sender_died_is_claimed_again(store: JobStore, queue: WebhookQueue) -> None:
    store.cancel(submit(store).id)
    first = claim(queue, lease_seconds=0.0)
    second = claim(queue)
    assert (first.attempt, second.attempt) == (1, 2)
    queue.retry(first, 0.0)  # it was not dead, but slow: the second attempt is under way
    assert queue.claim(RECEIVER, lease_seconds=60.0) is None
    queue.finish(first, "delivered")
    queue.retry(second, 0.0)
    assert queue.claim(RECEIVER, lease_seconds=60.0) is None


def test_a_failed_message_is_due_after_its_pause(
    store: JobStore, queue: WebhookQueue, redis_client: redis.Redis
) -> None:
    job_id = submit(store).id
    store.cancel(job_id)
    queue.retry(claim(queue), 1000.0)
    assert queue.claim(RECEIVER, lease_seconds=60.0) is None
    due = redis_client.zscore(WEBHOOKS + RECEIVER, job_id)
    assert 900 < float(due) - time.time() < 1100
    redis_client.zadd(WEBHOOKS + RECEIVER, {job_id: 0})
    message = claim(queue)
    assert message.attempt == 2
    queue.finish(message, "given_up")
    assert waiting(redis_client) == {}
    counted = {name: number for name, number in redis_client.hgetall(COUNTERS).items() if name.startswith("webhook")}
    assert counted == {"webhook:failed": "1", "webhook:given_up": "1"}


def test_the_url_is_in_no_event_and_counts_as_stored(store: JobStore, redis_client: redis.Redis) -> None:
    record = submit(store, shared=True)
    assert store.get(record.id).webhook == URL
    store.cancel(record.id)
    events = redis_client.xrange(EVENTS + record.id)
    assert len(events) == 2
    assert "secret" not in json.dumps(events)
    assert int(redis_client.hget(STORED_BYTES, "records")) == RECORD_BYTES + len("{}{}") + 2 * len(URL)


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("http://a.example", "a.example:80"),
        ("https://A.Example/x?y", "a.example:443"),
        ("https://a.example:8443/", "a.example:8443"),
        ("http://[::1]:8000/", "[::1]:8000"),
        ("http://10.0.0.5:0/", "10.0.0.5:0"),
    ],
)
def test_receivers_are_hosts_with_ports(url: str, receiver: str) -> None:
    assert receiver_of(url) == receiver
    assert is_receiver(url, [receiver])
    assert not is_receiver(url, [])


def test_listed_receivers() -> None:
    assert listed_receivers("") == frozenset()
    assert listed_receivers(" a.example, B:8080,[::1] ") == {
        "a.example:80",
        "a.example:443",
        "b:8080",
        "[::1]:80",
        "[::1]:443",
    }
    assert not is_receiver("http://a.example:99999/", listed_receivers("a.example"))
    for wrong in ("http://a.example", "a b", "u@a", "a:99999", "a/b", "*"):
        with pytest.raises(ValueError, match=r"must be hosts|[Pp]ort"):
            listed_receivers(wrong)
