"""Connections to Redis survive its restarts, and its faults are told apart."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from kombu.exceptions import OperationalError

from hessian_spectrum.jobs import connection
from hessian_spectrum.jobs.connection import (
    Fault,
    connect,
    connect_async,
    described,
    eviction_fault,
    fault_of,
    require_writable,
)
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.store import JobStore
from tests.fixtures.jobs import create_job

SILENCE = 0.4
CROWD = 150


@pytest.fixture
def silent_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_SECONDS", SILENCE)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:  # accepts in the kernel, and never reads
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


def test_callers_in_line_do_not_wait_one_after_the_other(silent_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPEN_SECONDS", 60.0)
    client = connect(silent_url)

    def ask(_: int) -> str:
        with pytest.raises(redis.TimeoutError) as caught:
            client.ping()
        return str(caught.value)

    with ThreadPoolExecutor(10) as pool:  # 100 callers: ten times its threads
        answers = list(pool.map(ask, range(100)))
    assert answers.count("Redis did not answer a moment ago") >= 90


def test_silence_is_over_when_redis_answers(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_SECONDS", SILENCE)
    client, other = connect(redis_url), connect(redis_url)
    other.client_pause(int(1000 * (SILENCE + 0.2)))
    with pytest.raises(redis.TimeoutError):
        client.incr("number")
    with pytest.raises(redis.TimeoutError, match="a moment ago"):
        client.ping()
    time.sleep(connection.OPEN_SECONDS)
    assert client.ping()


def test_a_connection_that_was_closed_is_made_anew(redis_url: str) -> None:
    client = connect(redis_url)
    client.ping()
    pooled = client.connection_pool.get_connection()
    pooled._sock.shutdown(socket.SHUT_RDWR)
    client.connection_pool.release(pooled)
    assert client.ping()


def test_a_crowd_of_threads_is_answered_at_once(redis_url: str) -> None:
    with connect(redis_url) as client, ThreadPoolExecutor(CROWD) as pool:
        answers = list(pool.map(lambda _: client.blpop(["nothing"], timeout=0.5), range(CROWD)))
    assert answers == [None] * CROWD


def test_a_crowd_of_listeners_is_answered_at_once(redis_url: str) -> None:
    async def ask() -> list[object]:
        async with connect_async(redis_url) as client:
            return await asyncio.gather(*(client.blpop(["nothing"], timeout=0.5) for _ in range(CROWD)))

    assert asyncio.run(ask()) == [None] * CROWD


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (redis.ConnectionError("Connection refused"), "away"),
        (redis.TimeoutError("Timeout reading from socket"), "away"),
        (redis.AuthenticationError("invalid username-password pair"), "away"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "disk"),
        (redis.ResponseError("Error running script: -OOM command not allowed when used memory > 'maxmemory'."), "full"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "refusing"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "refusing"),
        (OperationalError("without a cause"), "away"),
    ],
)
def test_each_error_is_one_fault(error: Exception, fault: Fault) -> None:
    assert fault_of(error) == fault  # type: ignore[arg-type]
    assert described(error).startswith("redis ")  # type: ignore[arg-type]


def test_a_redis_at_its_maxmemory_is_full_for_whoever_writes(redis_client: redis.Redis, redis_url: str) -> None:
    store, jobs = JobStore(redis_client, lease_seconds=30.0, max_attempts=2), JobQueue(redis_url)
    jobs.publish("before")
    require_writable(redis_client)
    redis_client.config_set("maxmemory", 1)
    writes = {
        "probe": lambda: require_writable(redis_client),
        "script": lambda: create_job(store),
        "transaction": lambda: redis_client.pipeline().set("a", "1").execute(),
        "message": lambda: jobs.publish("a"),
    }
    try:
        for name, write in writes.items():
            with pytest.raises((redis.RedisError, OperationalError)) as refused:
                write()
            assert (name, fault_of(refused.value)) == (name, "full")
    finally:
        redis_client.config_set("maxmemory", 0)
    require_writable(redis_client)
    assert not redis_client.exists("spectrum:probe")
    jobs.close()


def test_a_user_who_may_not_see_the_policy_is_told_nothing_of_it(redis_client: redis.Redis, redis_url: str) -> None:
    redis_client.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], categories=["+@read", "+@connection"])
    redis_client.config_set("maxmemory-policy", "allkeys-random")
    try:
        with redis.Redis.from_url(redis_url, username="reader", password="any") as reader:
            assert eviction_fault(reader) is None
        assert "allkeys-random" in str(eviction_fault(redis_client))
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.acl_deluser("reader")
