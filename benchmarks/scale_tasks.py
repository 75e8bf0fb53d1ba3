"""`python benchmarks/scale_tasks.py URL`: what the jobs and the queue of one build ask of an empty Redis, as JSON.

It imports nothing of the benchmarks, so that an earlier build can run it, too.
"""

import argparse
import json
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import redis

from hessian_spectrum.api_schemas.health import WorkerStatus
from hessian_spectrum.api_schemas.jobs import Progress
from hessian_spectrum.jobs.counters import read_counters
from hessian_spectrum.jobs.creation import JobSpecification
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue
from hessian_spectrum.jobs.record import Lease
from hessian_spectrum.jobs.scripts import index_key
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.jobs.worker_registry import register

try:
    from hessian_spectrum.jobs.worker_registry import RecentWorkers
except ImportError:  # an earlier build
    from hessian_spectrum.jobs.worker_registry import registered_result_versions  # type: ignore[attr-defined]
    from hessian_spectrum.service.admission import available_bytes  # type: ignore[attr-defined]

    class RecentWorkers:  # type: ignore[no-redef]
        """What that build asks of Redis for the same answers."""

        def __init__(self, client: redis.Redis) -> None:
            self.result_versions = partial(registered_result_versions, client)
            self.available_bytes = partial(available_bytes, client)


NUM_WORKERS = 1_000
NUM_CALLS = 15
PAGE_SIZE = 51  # one more than a page shows
LEASE_SECONDS = 3600.0
REQUEST = json.dumps({"kind": "spectrum", "note": "x" * 300})
WAITING, ENDED = ("part", "waiting"), ("part", "ended")
_NUM_TOGETHER = 500


@dataclass(frozen=True)
class Deployment:
    """The stores of a deployment with many workers.

    Attributes:
        client: Client of Redis.
        store: Records of jobs.
        queue: Messages to workers.
        workers: The workers, as the service sees them.
        leases: Leases of the jobs that run, one for each worker.
    """

    client: redis.Redis
    store: JobStore
    queue: JobQueue
    workers: RecentWorkers
    leases: list[Lease]

    def fill(self, number: int) -> None:
        """Submit jobs until so many wait, and a tenth as many that are cancelled."""
        missing = number - self.client.zcard(index_key("queued"))
        self._create(missing, WAITING, self.queue.publish)
        self._create(number // 10 - self.client.zcard(index_key("cancelled")), ENDED, self.store.cancel)

    def _create(self, number: int, tag: tuple[str, str], then: Callable[[str], object]) -> None:
        for start in range(0, number, _NUM_TOGETHER):
            jobs = [_specification(tag) for _ in range(min(_NUM_TOGETHER, number - start))]
            for record in self.store.creator.create(jobs)[0]:
                then(record.id)

    def submit(self) -> str:
        """Do what the service does in Redis for one submission; returns the id of the job."""
        self.workers.result_versions()
        self.workers.available_bytes()
        [record], _ = self.store.creator.create([_specification(WAITING)])
        self.queue.publish(record.id)
        return record.id

    def ids(self, position: int, number: int = NUM_CALLS) -> list[str]:
        """Ids of waiting jobs from this position on, oldest first."""
        return [str(each) for each in self.client.zrange(index_key("queued"), position, position + number - 1)]


def _specification(tag: tuple[str, str]) -> JobSpecification:
    return JobSpecification("spectrum", REQUEST, tags=dict([tag]), summary="a job of a benchmark")


def deployment(url: str) -> Deployment:
    """A deployment whose workers run one job each."""
    client = redis.Redis.from_url(url, decode_responses=True)
    store = JobStore(client, lease_seconds=LEASE_SECONDS, max_attempts=3)
    records, _ = store.creator.create([_specification(WAITING) for _ in range(NUM_WORKERS)])
    leases = [lease for each in records if (lease := store.claim(each.id))]
    return Deployment(client, store, JobQueue(url), RecentWorkers(client), leases)


def _status(number: int) -> WorkerStatus:
    return WorkerStatus(
        name=f"host-{number}-1",
        device="cpu",
        memory_bytes=2**33,
        concurrency=1,
        num_threads=1,
        source_version="0" * 64,
        code_version=f"{number % 2}" * 64,
    )


@dataclass(frozen=True)
class Operation:
    """Something that a client, a worker or the service asks.

    Attributes:
        title: What it is, for people.
        call: Asks it once.
        num_calls: How often it is asked.
    """

    title: str
    call: Callable[[], object]
    num_calls: int = NUM_CALLS


def operations(deployed: Deployment, number: int) -> Iterator[Operation]:
    """What is measured while this number of jobs waits; each call leaves nearly as many."""
    store, client = deployed.store, deployed.client
    for each in range(NUM_WORKERS):  # again, as what came before took longer than they may be silent
        register(client, _status(each))
    [middle] = deployed.ids(number // 2, 1)
    claimed, cancelled = iter(deployed.ids(0)), iter(deployed.ids(number // 2))
    leases, progress = iter(deployed.leases * 2), Progress(phase="products", done=1, total=2, unit="products")
    seeds = count()
    yield Operation("submission", deployed.submit)
    yield Operation("first page", lambda: store.page(size=PAGE_SIZE))
    yield Operation("page by state", lambda: store.page(state="queued", size=PAGE_SIZE))
    yield Operation("page by tag", lambda: store.page(tag=WAITING, size=PAGE_SIZE))
    yield Operation("page by state and tag", lambda: store.page(state="queued", tag=WAITING, size=PAGE_SIZE))
    yield Operation("page by state and tag, empty", lambda: store.page(state="queued", tag=ENDED, size=PAGE_SIZE))
    yield Operation("page in the middle", lambda: store.page(state="queued", size=PAGE_SIZE, after=middle))
    yield Operation("claim", lambda: store.claim(next(claimed)))
    yield Operation("renewal", lambda: store.renew(next(leases), progress))
    yield Operation("end", lambda: store.succeed(deployed.leases.pop(), f"{next(seeds):064x}", "1"))
    yield Operation("cancellation", lambda: store.cancel(next(cancelled)))
    yield Operation("whether jobs wait", store.has_queued)
    yield Operation("status and metrics", lambda: read_counters(client))
    yield Operation("heartbeat of a worker", lambda: register(client, _status(next(seeds) % NUM_WORKERS)))
    yield Operation("search for lost jobs", store.recover_lost)
    yield Operation("search for lost messages", lambda: store.take_unpublished([], 30.0))
    yield Operation("search for lost messages, all lost", lambda: _without_messages(deployed), 4)


def _without_messages(deployed: Deployment) -> None:
    messages, hidden = KEY_PREFIX + QUEUE, KEY_PREFIX + "hidden"
    deployed.client.rename(messages, hidden)
    try:
        deployed.store.take_unpublished([], 30.0)
    finally:
        deployed.client.rename(hidden, messages)


@contextmanager
def counted(client: redis.Redis) -> Iterator[dict[str, float]]:
    """Commands, those of scripts included, round trips and seconds of the server's processor within the block."""
    before, found = _usage(client), dict[str, float]()
    yield found
    after = _usage(client)
    found |= {name: after[name] - before[name] for name in after}


def _usage(client: redis.Redis) -> dict[str, float]:
    info: dict[str, Any] = client.info("everything")
    calls = sum(each["calls"] for name, each in info.items() if name.startswith("cmdstat_") and "info" not in name)
    seconds = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
    return {"commands": calls, "round_trips": info["total_reads_processed"], "server_seconds": seconds}


def measured(deployed: Deployment, operation: Operation) -> dict[str, float]:
    """The costs of one call: counts and the server's time as means, the time of the caller as a median."""
    operation.call()  # connections and scripts that are used for the first time
    seconds = []
    with counted(deployed.client) as usage:
        for _ in range(operation.num_calls - 2):
            started = time.perf_counter()
            operation.call()
            seconds.append(time.perf_counter() - started)
    usage["round_trips"] -= 1  # of INFO
    return {name: value / len(seconds) for name, value in usage.items()} | {"seconds": median(seconds)}


def waiting(url: str, seconds: float) -> dict[str, float]:
    """What workers that wait for a message cost, and how long one takes to one of them.

    Their connections are real; each asks as Celery's transport does, for a second at a time, and drops the message.
    """
    client, queue = redis.Redis.from_url(url, decode_responses=True), JobQueue(url)
    names = [KEY_PREFIX + QUEUE, *(f"{KEY_PREFIX}{QUEUE}\x06\x16{priority}" for priority in (3, 6, 9))]
    asking, latencies = _Asking(url, names), []
    asking.until(lambda: False, seconds=2.0)
    with counted(client) as usage:
        asking.until(lambda: False, seconds=seconds)
    for number in range(NUM_CALLS):
        started, expected = time.perf_counter(), asking.num_messages + 1
        queue.publish(f"{number:032x}")
        asking.until(partial(asking.has_had, expected), seconds=5.0)
        latencies.append(time.perf_counter() - started)
    asking.close()
    queue.close()
    return {name: value / seconds for name, value in usage.items()} | {"seconds": median(latencies)}


class _Asking:
    """Connections of workers that wait for a message."""

    def __init__(self, url: str, names: list[str]) -> None:
        self._command, self.num_messages, self._selector = ("BRPOP", *names, 1), 0, selectors.DefaultSelector()
        self._pool: Any = redis.ConnectionPool.from_url(url, max_connections=NUM_WORKERS)
        connections: list[Any] = [self._pool.get_connection() for _ in range(NUM_WORKERS)]
        for connection in connections:
            self._ask(connection)
            self._selector.register(connection._sock, selectors.EVENT_READ, connection)

    def _ask(self, connection: Any) -> None:
        connection.send_command(*self._command)

    def has_had(self, number: int) -> bool:
        """Return whether so many messages have come."""
        return self.num_messages >= number

    def until(self, is_done: Callable[[], bool], *, seconds: float) -> None:
        """Go on asking until the condition holds, or for this time."""
        deadline = time.monotonic() + seconds
        while not is_done() and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self.num_messages += key.data.read_response() is not None
                self._ask(key.data)

    def close(self) -> None:
        """Close the connections."""
        self._selector.close()
        self._pool.disconnect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="URL of an empty Redis")
    parser.add_argument("sizes", type=int, nargs="+", help="numbers of waiting jobs, ascending")
    arguments = parser.parse_args()
    found = {"a second of all workers that wait": {"0": waiting(arguments.url, 10.0)}}
    deployed = deployment(arguments.url)
    for size in arguments.sizes:
        deployed.fill(size)
        for operation in operations(deployed, size):
            found.setdefault(operation.title, {})[str(size)] = measured(deployed, operation)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
