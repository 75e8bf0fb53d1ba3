"""What can happen to a server: each fault strikes once and is over when its function returns."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.processes import is_alive
from benchmarks.stack import RunningStack
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, JobQueue

LEASE_SECONDS = 3.0
LIFE_SECONDS = 6.0
SETTINGS = {
    "SPECTRUM_LEASE_SECONDS": str(LEASE_SECONDS),
    "SPECTRUM_CHECKPOINT_SECONDS": "0.1",
    "SPECTRUM_REPUBLISH_SECONDS": "2",
    "SPECTRUM_REAP_SECONDS": "0.5",
    "SPECTRUM_MAX_ATTEMPTS": "1000",
}
"""All happens sooner than by default, and no job is given up: its workers die through no fault of its own."""


@dataclass
class Pause:
    """Processes that stood still, from one time to another."""

    pids: list[int]
    begun: float
    ended: float


@dataclass
class Killer:
    """Strikes a stack.

    Attributes:  pauses, of processes that were stopped and went on.
    """

    stack: RunningStack
    chance: random.Random
    pauses: list[Pause] = field(default_factory=list)
    _struck: dict[str, float] = field(default_factory=dict)

    def child(self) -> None:
        """kill -9 of a process that computes."""
        _kill([self.chance.choice(self._workers()[1:])])

    def worker(self) -> None:
        """kill -9 of the worker, whose children compute on until the launcher ends them."""
        self._let_live("worker")
        _kill(self._workers()[:1])

    def workers(self) -> None:
        """kill -9 of the worker and all of its children."""
        self._let_live("worker")
        _kill(self._workers())

    def service(self) -> None:
        """kill -9 of the HTTP service."""
        self._let_live("service")
        _kill(self.stack.pids("-m hessian_spectrum.service"))

    def redis(self) -> None:
        """kill -9 of Redis."""
        self._let_live("redis")
        _kill(self.stack.pids("redis.conf") or self.stack.pids("redis.sock"))

    def everything(self) -> None:
        """kill -9 of all processes at once, then a new start: a power failure as processes see it."""
        pids = [self.stack.pid, *self.stack.pids()]
        _kill(pids)
        self.stack.wait()
        self._wait_until_gone(pids)
        self.stack.start()

    def launcher(self) -> None:
        """kill -9 of the launcher alone, whose children then end by themselves, and a new start."""
        pids = [self.stack.pid, *self.stack.pids()]
        _kill(pids[:1])
        self.stack.wait()
        self._wait_until_gone(pids)
        self.stack.start()

    def terminated_worker(self) -> None:
        """SIGTERM of the worker, as in a rolling restart."""
        self._let_live("worker")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._workers()[0], signal.SIGTERM)

    def paused_child(self) -> None:
        """A process that computes stands still for longer than its lease, then goes on."""
        self._pause([self.chance.choice(self._workers()[1:])], LEASE_SECONDS + 0.5 + 2 * self.chance.random())

    def paused_worker(self) -> None:
        """The worker and its children stand still for longer than their leases, then go on."""
        self._pause(self._workers(), LEASE_SECONDS + 0.5 + 2 * self.chance.random())

    def paused_redis(self) -> None:
        """Redis stands still for longer than the leases, then goes on."""
        self._pause(self.stack.pids("redis"), LEASE_SECONDS + 0.5 + self.chance.random())

    def lost_messages(self) -> None:
        """The broker forgets every message, those that workers hold, too."""
        with self.stack.redis() as client:
            client.delete(*(KEY_PREFIX + name for name in (QUEUE, "unacked", "unacked_index")))

    def doubled_messages(self) -> None:
        """The broker delivers the message of every job that waits or runs once more."""
        queue = JobQueue(self.stack.redis_url())
        with self.stack.redis() as client:
            for state in ("queued", "running", "cancelling"):
                for job_id in client.zrange(f"spectrum:jobs:{state}", 0, -1):
                    queue.publish(str(job_id))
        queue.close()

    def _let_live(self, name: str) -> None:
        """A launcher gives up a process that dies again and again right after its start."""
        time.sleep(max(0.0, self._struck.get(name, 0.0) + LIFE_SECONDS - time.monotonic()))
        self._struck[name] = time.monotonic()

    def _workers(self) -> list[int]:
        deadline = time.monotonic() + 60
        while len(pids := self.stack.pids("-m hessian_spectrum.worker")) < 3:
            if time.monotonic() > deadline:
                raise RuntimeError("no worker is there")
            time.sleep(0.05)
        return pids

    def _pause(self, pids: list[int], seconds: float) -> None:
        begun = time.time()
        _signal(pids, signal.SIGSTOP)
        time.sleep(seconds)
        _signal(pids, signal.SIGCONT)
        self.pauses.append(Pause(pids, begun, time.time()))

    def _wait_until_gone(self, pids: list[int]) -> None:
        deadline = time.monotonic() + 90  # a worker without Redis gives up only after a while
        while any(is_alive(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise RuntimeError(f"of {pids} some outlive their launcher")
            time.sleep(0.02)


Fault = Callable[[Killer], None]

MIXED: dict[Fault, int] = {
    Killer.child: 10,
    Killer.service: 5,
    Killer.redis: 5,
    Killer.paused_child: 4,
    Killer.lost_messages: 4,
    Killer.doubled_messages: 4,
    Killer.paused_redis: 2,
    Killer.paused_worker: 2,
    Killer.worker: 1,
    Killer.workers: 1,
    Killer.terminated_worker: 1,
    Killer.everything: 2,
    Killer.launcher: 1,
}
"""How often each is drawn beside the others."""

REDIS: dict[Fault, int] = {Killer.redis: 1}


def drawn(weights: dict[Fault, int], number: int, seed: int) -> list[Fault]:
    """So many faults at random, one as often as its weight says."""
    return random.Random(seed).choices(list(weights), list(weights.values()), k=number)


def each_once(seed: int) -> list[Fault]:
    """Every kind of fault, in random order."""
    return random.Random(seed).sample(list(MIXED), len(MIXED))


def _kill(pids: list[int]) -> None:
    if not pids:
        raise RuntimeError("nothing to kill")
    _signal(pids, signal.SIGKILL)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
