"""The load that is offered, and what is counted of its answers."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.arrivals import offer
from benchmarks.job_overhead import quantile
from benchmarks.memory_watch import MemoryWatch
from benchmarks.mixed_load import quantiles

STALL_SECONDS, EVERY = 0.4, 100


@pytest.fixture
def stalling_port() -> Iterator[int]:
    """Of a server that answers at once, but once stands still for everybody and refuses every hundredth request."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []
    count = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while await reader.readline():
            await reader.readline()
            count += 1
            if count == 50:
                threading.Event().wait(STALL_SECONDS)  # the whole loop
            status = b"503 Busy" if count % EVERY == 0 else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await closing.wait()

    closing = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(closing.set)
    thread.join(10)
    loop.close()


def test_a_stall_counts_for_all_who_were_due_meanwhile(stalling_port: int) -> None:
    answers = offer(stalling_port, b"GET / HTTP/1.1\r\n\r\n", 300.0, 2.0, seed=1)
    assert len(answers.seconds) == 600
    assert answers.num_errors == 600 // EVERY
    # 120 were due while nobody was answered, and the later one was due, the shorter it waited
    assert 80 < np.count_nonzero(answers.seconds > 0.05) < 300
    assert answers.seconds.max() >= 0.9 * STALL_SECONDS
    assert np.quantile(answers.seconds, 0.5) < 0.05


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 1001)]
    assert quantiles(np.asarray(values)) == {
        "p50": 501.0,
        "p90": 901.0,
        "p99": 991.0,
        "p99.9": 1000.0,
        "longest": 1000.0,
    }
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [500.0, 990.0, 1000.0]


def test_memory_that_grows_is_told_from_memory_that_is_used_again() -> None:
    watch = MemoryWatch(None)  # type: ignore[arg-type]
    watch.num_bytes = {"flat": [100, 110] * 50, "growing": list(range(100, 200)), "gone": [0] * 100}
    found = watch.summary()
    assert found.keys() == {"flat", "growing"}
    assert abs(found["flat"]["drift"]) < 0.01
    assert found["flat"]["range"] == pytest.approx(0.095, abs=0.001)
    assert found["growing"]["drift"] > 0.3
