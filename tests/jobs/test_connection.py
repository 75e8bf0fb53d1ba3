"""Clients of a Redis that is there and says nothing, and of one that many ask at once."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from hessian_spectrum.jobs import connection
from hessian_spectrum.jobs.connection import connect, connect_async

SILENCE = 0.4
CROWD = 150


@pytest.fixture
def silent_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_SECONDS", SILENCE)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:  # accepts in the kernel, and never reads
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


def test_callers_in_line_do_not_wait_one_after_the_other(silent_url: str) -> None:
    client = connect(silent_url)

    def ask(_: int) -> None:
        with contextlib.suppress(redis.TimeoutError):
            client.ping()
            raise AssertionError

    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:  # 100 callers: ten times its threads
        list(pool.map(ask, range(100)))
    assert time.monotonic() - started < 3 * SILENCE


def test_silence_is_over_when_redis_answers(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_SECONDS", SILENCE)
    client, other = connect(redis_url), connect(redis_url)
    other.client_pause(int(1000 * (SILENCE + 0.2)))
    with pytest.raises(redis.TimeoutError):
        client.incr("number")
    started = time.monotonic()
    with pytest.raises(redis.TimeoutError, match="a moment ago"):
        client.ping()
    assert time.monotonic() - started < SILENCE / 2
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
