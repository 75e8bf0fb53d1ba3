"""Clients of a Redis that is there and says nothing."""

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from jobs import connection
from jobs.connection import connect

SILENCE = 0.4


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
    time.sleep(connection.SECONDS_OF_SILENCE)
    assert client.ping()


def test_a_connection_that_was_closed_is_made_anew(redis_url: str) -> None:
    client = connect(redis_url)
    client.ping()
    pooled = client.connection_pool.get_connection()
    pooled._sock.shutdown(socket.SHUT_RDWR)
    client.connection_pool.release(pooled)
    assert client.ping()
