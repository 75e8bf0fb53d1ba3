"""The load that is offered, and what is counted of its answers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks.cpu_speed import SECONDS_BETWEEN, CpuSpeed, CpuSpeedWatch, core_speed
from benchmarks.job_overhead import quantile
from benchmarks.memory_watch import MemoryWatch
from benchmarks.mixed_load import quantiles
from benchmarks.open_loop_load import offer

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
    answers = offer(stalling_port, b"GET / HTTP/1.1\r\n\r\n", 100.0, seconds=4.0, seed=1)
    assert len(answers.seconds) == 400
    assert answers.num_errors == 400 // EVERY
    # about 40 were due while nobody was answered, and the later one was due, the shorter it waited
    assert 25 < np.count_nonzero(answers.seconds > 0.05) < 200
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


def one_after_the_other(
    due: list[float], speed_at: Callable[[float], float], work: float, *, step: float
) -> list[float]:
    """The same waits, from small steps in time."""
    now, waits = 0.0, []
    for moment in due:
        now, left = max(now, moment), work
        while left > 0:
            left -= step * speed_at(now)
            now += step
        waits.append(now - moment)
    return waits


def test_an_ideal_server_waits_for_the_machine_alone() -> None:
    edges = np.arange(0, 4.001, 0.01)
    speed = np.where((edges[:-1] >= 1) & (edges[:-1] < 1.1), 0.0, np.where(edges[:-1] >= 2, 0.5, 1.0))
    due = np.cumsum(np.random.default_rng(5).exponential(1 / 80, 250))
    found = CpuSpeed(edges, speed).ideal_seconds(due, 0.004)
    expected = one_after_the_other(list(due), lambda now: float(speed[min(int(now / 0.01), 399)]), 0.004, step=1e-5)
    assert due[-1] < 3.9
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # who is due at the beginning of a standstill waits for its end
    assert 0.09 < found[np.searchsorted(due, 1.0)] < 0.11


def test_what_is_not_done_when_the_watch_ends_goes_on_at_the_usual_pace() -> None:
    speed = CpuSpeed(np.array([0.0, 1.0]), np.array([1.0]))
    np.testing.assert_allclose(speed.ideal_seconds(np.array([0.2, 0.5, 0.9]), 0.6), [0.6, 0.9, 1.1], rtol=1e-12)


def test_pace_of_a_core_that_is_slow_and_of_one_that_is_taken() -> None:
    ends = np.array([0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.15, 0.16])
    costs = np.array([1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0]) * 5e-5
    stolen = np.array([7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.08, 7.08])
    found = core_speed(np.array([0.0, 0.01, 0.02, 0.05, 0.15, 0.16]), ends, costs, stolen=stolen)
    np.testing.assert_allclose(found, [1, 0.25, 1, 0.2, 1], rtol=1e-9)


def test_a_loop_without_a_cost_says_nothing() -> None:
    ends, costs = np.linspace(0, 0.5, 6), np.array([5e-5, 5e-5, 0.0, 1e-4, 5e-5, 5e-5])
    np.testing.assert_allclose(core_speed(ends, ends, costs, stolen=np.zeros(6)), [1, 1, 0.5, 1, 1], rtol=1e-9)


def test_the_pace_of_this_machine() -> None:
    began = time.perf_counter()
    with CpuSpeedWatch() as watch:
        watching = time.perf_counter()
        time.sleep(0.5)
        stopping = time.perf_counter()
    speed = watch.speed
    assert began < speed.edges[0] < watching
    assert stopping - 0.2 < speed.edges[-1] < time.perf_counter()
    assert len(speed.edges) == len(speed.speed) + 1
    assert np.all(speed.speed >= 0)
    assert 0.5 < np.median(speed.speed) < 2
    half = speed.between(watching, watching + 0.25)
    assert len(half.edges) == len(half.speed) + 1 == pytest.approx(0.25 / SECONDS_BETWEEN, abs=2)
