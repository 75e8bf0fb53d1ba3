"""A message in the hands of the worker's first process, which outlives those that compute."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.store import WORKERS_LOST
from hessian_spectrum.worker.memory_guard import killed_by_kernel
from hessian_spectrum.worker.signals import CRASHES, name_of_signal

_SIGNAL = re.compile(r"signal (\d+)")

_logger = logging.getLogger(__name__)


class SteadyQoS(redis_transport.QoS):
    """Of messages that are not acknowledged yet: one that cannot be, for Redis is away, takes no place for ever.

    Otherwise a worker all of whose places are taken so waits for a place, and not for messages, and never takes another
    job. The message itself stays in Redis, comes again when its time is over, and is dropped.
    """

    def ack(self, delivery_tag: str) -> None:
        """Raises:  RedisError."""
        with self._place_given_back(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Raises:  RedisError."""
        with self._place_given_back(delivery_tag):
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    @contextmanager
    def _place_given_back(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except RedisError:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


def holder(worker_pid: int, pid: int) -> str:
    """Name of a process of this worker's pool, among all of a deployment."""
    return f"{socket.gethostname()}-{worker_pid}-{pid}"


class Delivery(Request):  # type: ignore[misc]
    """Tells the job store at once of a process that died: the lease need not run out first.

    A job whose process the kernel killed for want of memory ends, instead of taking further processes with it. That of
    another cause goes back to the queue, and the loss is counted; if it was the last that the job may have, the job's
    problem names the signal. The task has a `store` of jobs, one of `shards`, and a `kernel` watch.
    """

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        """The process died: no other error leaves the task."""
        super().on_failure(exc_info, *arguments, **options)
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, WorkerLostError) and self.worker_pid is not None:
            name = signal_in(str(error))
            problem = killed_by_kernel() if name == "SIGKILL" and self.task.kernel.has_killed() else None
            job_id, process = self.args[0], holder(os.getpid(), self.worker_pid)
            last_problem = None if name is None else died_of(name)
            crash_signal = name if name in CRASHES else None
            try:
                self.task.store.mark_worker_lost(
                    job_id, process, problem=problem, last_problem=last_problem, crash_signal=crash_signal
                )
                self.task.shards.mark_worker_lost(job_id, process, problem=problem, last_problem=last_problem)
            except RedisError as away:
                _logger.warning("the lease of job %s must run out: %s", self.args[0], away)


def signal_in(text: str) -> str | None:
    """Of the signal that billiard says a process died of; None if it names none."""
    found = _SIGNAL.search(text)
    if found is None:
        return None
    return name_of_signal(int(found[1]))


def died_of(name: str) -> Problem:
    """What a job ends with whose processes died of this signal, attempt after attempt."""
    detail = f"The process that computed it died of {name}, and all attempts that a job may lose are used up."
    if name == "SIGKILL":
        detail += " The job may need more memory than the worker has."
    return WORKERS_LOST.model_copy(update={"detail": detail})
