"""Keeps a job's lease while it is computed, carries its progress out and the wish to cancel in."""

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from api_schemas.jobs import Progress
from jobs.store import JobStore, Lease, LeaseLostError

SECONDS_BETWEEN_SIGNS = 0.5
SECONDS_TO_STOP = 1.5
"""That a computation has to hear of a wish to cancel; LAPACK, for one, does not listen."""

_UNITS = {
    "training": "steps",
    "measurements": "measurements",
    "linearisation": "micro-batches",
    "products": "matrix-vector products",
    "eigenvalues": "spectra",
    "storing": "bytes",
}

_logger = logging.getLogger(__name__)


class JobCancelledError(Exception):
    """The caller wants the job no more."""


class WorkerStoppingError(Exception):
    """The worker was told to stop; the job goes on elsewhere."""


class LeaseKeeper:
    """A thread that renews the lease; `report` is called by the computation, as often as it likes.

    The thread alone talks to Redis, so a slow Redis does not slow the computation. A computation that goes on after
    its job was cancelled ends with its process, which the pool replaces.
    """

    def __init__(self, store: JobStore, lease: Lease, stopping: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._stopping = stopping
        self._lease = lease
        self._progress: Progress | None = Progress(phase="preparing", done=0, total=0, unit="")
        self._estimated_seconds: float | None = None
        self._cancelled_at: float | None = None
        self._lost = threading.Event()
        self._closed = threading.Event()
        context = contextvars.copy_context()  # so that the thread's lines name the job, too
        self._thread = threading.Thread(target=context.run, args=(self._keep,), name="lease-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def report(self, phase: str, done: int, total: int) -> None:
        """Note how far the computation is.

        Raises:  JobCancelledError, LeaseLostError or WorkerStoppingError when it is to stop.
        """
        self._progress = Progress(
            phase=phase,
            done=done,
            total=total,
            unit=_UNITS.get(phase, ""),
            estimated_seconds=self._estimated_seconds,
        )
        if self._lost.is_set():
            raise LeaseLostError
        if self._cancelled_at is not None:
            raise JobCancelledError
        if self._stopping():
            raise WorkerStoppingError

    def expect(self, seconds: float) -> None:
        """Tell with all later progress that the computation takes so long."""
        self._estimated_seconds = seconds

    def write_last_progress(self) -> None:
        """Write the progress that the thread has not written yet."""
        self._sign()

    def _keep(self) -> None:
        while not self._closed.is_set() and not self._lost.is_set():
            started = time.monotonic()
            try:
                self._sign()
            except LeaseLostError:
                self._lost.set()
            except RedisError as error:
                _logger.warning("lease of job %s not renewed: %s", self._lease.job_id, error)
            self._closed.wait(max(0.0, SECONDS_BETWEEN_SIGNS - (time.monotonic() - started)))

    def _sign(self) -> None:
        progress, self._progress = self._progress, None
        try:
            state = self._store.renew(self._lease, progress)
        except RedisError:
            self._progress = self._progress or progress
            raise
        if state == "cancelling":
            self._stop_computation()

    def _stop_computation(self) -> None:
        now = time.monotonic()
        self._cancelled_at = self._cancelled_at or now
        if now - self._cancelled_at > SECONDS_TO_STOP and not self._closed.is_set():
            self._store.close_cancelled(self._lease)
            fields = {"event": "ended", "state": "cancelled"}
            _logger.warning(
                "job %s did not hear that it is cancelled: its process ends", self._lease.job_id, extra=fields
            )
            os._exit(os.EX_TEMPFAIL)
