"""A message that cannot be acknowledged, because Redis is away just then, takes no place of the worker for ever."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery.worker.request import Request
from kombu import Connection, Queue
from kombu.transport import redis as redis_transport
from redis.exceptions import ConnectionError as RedisAwayError

from hessian_spectrum.jobs.connection import broker_url
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.worker.runtime.app import JobRequest, RecoveringQoS
from hessian_spectrum.worker.sharding import process_name
from tests.fixtures.jobs import create_job


@pytest.fixture
def message(redis_client: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The one that a channel with one place holds."""
    monkeypatch.setattr(redis_transport.Channel, "QoS", RecoveringQoS)
    with Connection(broker_url(redis_url)) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        queue = Queue("places", routing_key="places")(channel)
        queue.declare()
        with connection.Producer() as producer:
            producer.publish({}, routing_key="places")
        message = queue.get()
        assert message is not None
        assert not message.channel.qos.can_consume()
        yield message


@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
def test_its_place_is_given_back(message: Any, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise RedisAwayError

    monkeypatch.setattr(RecoveringQoS, "_remove_from_indices", away)
    monkeypatch.setattr(RecoveringQoS, "restore_by_tag", away)
    with pytest.raises(RedisAwayError):
        getattr(message, end)()
    assert message.channel.qos.can_consume()


def test_one_that_is_acknowledged_is_gone(message: Any, redis_client: Any) -> None:
    message.ack()
    assert message.channel.qos.can_consume()
    assert redis_client.hlen("unacked") == 0


@pytest.mark.parametrize(
    ("text", "name", "memory", "crashed_by"),
    [
        ("signal 11 (SIGSEGV) Job: 3.", "SIGSEGV", False, "SIGSEGV"),
        ("signal 6 (SIGABRT) Job: 0.", "SIGABRT", False, "SIGABRT"),
        ("signal 9 (SIGKILL) Job: 1.", "SIGKILL", True, None),
        ("signal 15 (SIGTERM) Job: 1.", "SIGTERM", False, None),
    ],
)
def test_a_job_whose_processes_die_of_a_signal_says_of_which(
    text: str, name: str, memory: bool, crashed_by: str | None, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is spoken of only where it may have been the cause."""
    monkeypatch.setattr(Request, "on_failure", lambda *_, **__: None)
    store = JobStore(redis_client, lease_seconds=15.0, max_attempts=2)
    job_id = create_job(store)[0].id
    kernel, shards = SimpleNamespace(has_killed=lambda: False), SimpleNamespace(mark_worker_lost=lambda *_, **__: None)
    task = SimpleNamespace(store=store, shards=shards, kernel=kernel)
    death = SimpleNamespace(exception=WorkerLostError(f"Worker exited prematurely: {text}"))
    for attempt in (1, 2):
        lease = store.claim(job_id, process_name(os.getpid(), 23))
        assert lease is not None
        assert (lease.attempt, lease.crashed_by) == (attempt, crashed_by if attempt == 2 else None)
        delivery = object.__new__(JobRequest)
        delivery._task, delivery._args, delivery.worker_pid = task, [job_id], 23
        delivery.on_failure(death)
        assert store.recover_lost() == [job_id]
    error = store.get(job_id).error
    assert error is not None
    assert error.type == "/problems/workers-lost"
    assert f"died of {name}" in (error.detail or "")
    assert ("memory" in (error.detail or "")) is memory
