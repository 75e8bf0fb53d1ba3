"""The Celery request of a job in the worker's main process, which outlives the processes that compute."""

import logging
import os
import re
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
from hessian_spectrum.worker.process import CRASHES, name_of_signal, process_name
from hessian_spectrum.worker.runtime.memory_guard import killed_by_kernel

_SIGNAL = re.compile(r"signal (\d+)")

_logger = logging.getLogger(__name__)


class RecoveringQoS(redis_transport.QoS):
    """Counts unacknowledged messages, and forgets one that cannot be acknowledged because Redis is away.

    Otherwise a worker at its limit of unacknowledged messages would wait for ever and never take another job. The
    message itself stays in Redis, is delivered again after its visibility timeout, and is then dropped.
    """

    def ack(self, delivery_tag: str) -> None:
        """Raises:  RedisError."""
        with self._forgotten_on_error(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Raises:  RedisError."""
        with self._forgotten_on_error(delivery_tag):
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    @contextmanager
    def _forgotten_on_error(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except RedisError:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class JobRequest(Request):  # type: ignore[misc]
    """Reports a process that died to the job store at once: the lease need not run out first.

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
            lost = (self.args[0], process_name(os.getpid(), self.worker_pid), problem)
            last_problem = None if name is None else died_of(name)
            try:
                self.task.store.lose(*lost, last_problem, name if name in CRASHES else None)
                self.task.shards.lose(*lost, last_problem)
            except RedisError as away:
                _logger.warning("the lease of job %s must run out: %s", self.args[0], away)


def signal_in(text: str) -> str | None:
    """Return the name of the signal that billiard says a process died of; None if it names none."""
    found = _SIGNAL.search(text)
    if found is None:
        return None
    return name_of_signal(int(found[1]))


def died_of(name: str) -> Problem:
    """Return the problem of a job whose processes died of this signal, attempt after attempt."""
    detail = f"The process that computed it died of {name}, and all attempts that a job may lose are used up."
    if name == "SIGKILL":
        detail += " The job may need more memory than the worker has."
    return WORKERS_LOST.model_copy(update={"detail": detail})
