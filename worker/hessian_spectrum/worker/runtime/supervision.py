"""Supervision of a running job: renewal of its lease, estimate of its remaining time, limit of its memory."""

import contextvars
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.api_schemas.jobs import Progress as JobProgress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.calibration import eigenvalue_seconds, vector_rate
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.jobs.plans import gibibytes
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.planning.work import Rates, Work, dense_seconds, moving_seconds
from hessian_spectrum.worker.failures import JobCancelledError, JobFailure, WorkerStoppingError, out_of_time

SECONDS_BETWEEN_RENEWALS = 0.5
SECONDS_TO_STOP = 1.5
"""Seconds that a computation has to notice that it must end; calls of LAPACK, for example, do not check."""
SECONDS_TO_RELEASE = 0.5
"""Seconds that a computation has to notice that it must end because another worker has taken the job."""

_SECONDS_BETWEEN_CHECKS = 0.01

LEAST_MOVED_BYTES = 10**9  # less takes no time that is worth a measurement
LEAST_ORDER = 200  # order of a dense eigenvalue problem, likewise

_UNITS = {
    "training": "steps",
    "measurements": "measurements",
    "points": "points",
    "linearisation": "micro-batches",
    "products": "matrix-vector products",
    "eigenvalues": "spectra",
    "storing": "bytes",
}

SECONDS_BETWEEN_MEMORY_CHECKS = 0.1
SECONDS_TO_REPORT = 5.0
"""Seconds that are allowed for writing the failure, during which memory may still grow."""

_STATUS = Path("/proc/self/status")
_PRIVATE = re.compile(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)

_logger = logging.getLogger(__name__)


class LeaseStore(Protocol):
    """The store of leases: a `JobStore`, or the shards of one job."""

    def renew(
        self, lease: Lease, progress: JobProgress | None, num_products: int = 0, interim_digest: str = ""
    ) -> JobState:
        """Renew the lease, pass on progress and the products since the last renewal, and return the state of the job.

        Args:
            lease: The lease.
            progress: Progress of the job, if there is news.
            num_products: Matrix-vector products since the last renewal.
            interim_digest: Digest of a new interim result, if there is one.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """

    def close_cancelled(self, lease: Lease) -> JobState:
        """End a job that is being cancelled."""

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        """End the job with a problem."""


class LeaseRenewer:
    """A thread that renews the lease; `report` is called by the computation, as often as it likes.

    The thread alone talks to Redis, so a slow Redis does not slow the computation. A computation that goes on after
    its job was cancelled or taken away, or its time was over, ends with its process, which the pool replaces. One that
    stood still for longer than a lease lasts waits until the thread has asked whether the job is still its own; it does
    not wait for a Redis that gives no answer, as then nobody else can have it.

    Args:
        store: Store of the lease.
        lease: Lease of the job.
        stopping: Returns whether the worker was told to stop.
        time_limit_seconds: Time limit in seconds of all attempts together.
    """

    def __init__(
        self,
        store: LeaseStore,
        lease: Lease,
        *,
        stopping: Callable[[], bool] = lambda: False,
        time_limit_seconds: float = float("inf"),
    ) -> None:
        self._store = store
        self._time_limit = time_limit_seconds
        self._started = self._asked = time.monotonic()
        self._stopping = stopping
        self._lease = lease
        self._progress: JobProgress | None = JobProgress(phase="preparing", done=0, total=0, unit="")
        self._estimated_seconds: float | None = None
        self._last_done: int | None = None  # products of the spectrum under way; None: none yet
        self._num_products = self._num_reported = 0
        self._interim_digest = ""  # of an interim result that is not announced yet
        self._ending: JobCancelledError | JobFailure | None = None
        self._ending_since = 0.0
        self._lost = threading.Event()
        self._closed = threading.Event()
        context = contextvars.copy_context()  # so that the thread's lines name the job, too
        self.on_renewal: Callable[[], None] = lambda: None
        """Function that the thread calls after each renewal; it may ask Redis for information that the computation
        needs."""
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="lease-renewer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def report(self, phase: str, done: int, total: int) -> None:
        """Record the progress of the computation.

        Args:
            phase: Name of the phase.
            done: Finished units of the phase.
            total: All units of the phase.

        Raises:
            JobCancelledError: If the job was cancelled.
            JobFailure: If its time is over.
            LeaseLostError: If another process has the job by now.
            WorkerStoppingError: If the worker was told to stop.
        """
        self._count(phase, done)
        self._progress = JobProgress(
            phase=phase,
            done=done,
            total=total,
            unit=_UNITS.get(phase, ""),
            estimated_seconds=self._estimated_seconds,
        )
        while self._was_suspended() and not self._lost.is_set() and not self._stopping():
            time.sleep(_SECONDS_BETWEEN_CHECKS)
        if self._lost.is_set():
            raise LeaseLostError
        if self._ending is not None:
            raise self._ending
        if self._stopping():
            raise WorkerStoppingError

    def _was_suspended(self) -> bool:
        return self._thread.is_alive() and time.monotonic() - self._asked > self._lease.seconds

    def _count(self, phase: str, done: int) -> None:
        # What a later attempt reports first was mostly computed by those before it, and counted then.
        if phase == "products":
            is_resumed = self._last_done is None and self._lease.attempt > 1
            before = done if is_resumed else (self._last_done or 0)
            self._num_products += done - before if done >= before else done
            self._last_done = done
        elif self._last_done is not None:
            self._last_done = 0

    def expect(self, seconds: float) -> None:
        """Report the expected duration of the whole computation, in seconds, with all later progress."""
        self._estimated_seconds = seconds

    def announce_interim(self, digest: str) -> None:
        """Tell clients of a new interim result with the next renewal."""
        self._interim_digest = digest

    def write_last_progress(self) -> None:
        """Write the progress that the thread has not written yet."""
        self._renew()

    def _watch(self) -> None:
        try:
            self._renew_until_closed()
        except Exception:
            _logger.exception("the lease of job %s is not renewed any more", self._lease.job_id)
        self._lost.set()
        if not self._closed.wait(SECONDS_TO_RELEASE):
            self._end_process("lost")

    def _renew_until_closed(self) -> None:
        while not self._closed.is_set():
            started = time.monotonic()
            try:
                self._renew()
                self._asked = started
            except LeaseLostError:
                return
            except RedisError as error:
                _logger.warning("lease of job %s not renewed: %s", self._lease.job_id, error)
                self._asked = time.monotonic()
            self._closed.wait(max(0.0, SECONDS_BETWEEN_RENEWALS - (time.monotonic() - started)))

    def _renew(self) -> None:
        progress, self._progress = self._progress, None
        interim_digest, self._interim_digest = self._interim_digest, ""
        num_products = self._num_products
        try:
            state = self._store.renew(
                self._lease, progress, num_products - self._num_reported, interim_digest=interim_digest
            )
        except RedisError:
            self._progress = self._progress or progress
            self._interim_digest = self._interim_digest or interim_digest
            raise
        self._num_reported = num_products
        if state == "cancelling":
            self._stop_computation(JobCancelledError())
        elif self._lease.run_seconds + time.monotonic() - self._started > self._time_limit:
            self._stop_computation(out_of_time(self._time_limit))
        self.on_renewal()

    def _stop_computation(self, ending: JobCancelledError | JobFailure) -> None:
        now = time.monotonic()
        if self._ending is None:
            self._ending, self._ending_since = ending, now
        if now - self._ending_since > SECONDS_TO_STOP and not self._closed.is_set():
            if isinstance(ending, JobFailure):
                state = self._store.fail(self._lease, ending.problem)
            else:
                state = self._store.close_cancelled(self._lease)
            self._end_process(state)

    def _end_process(self, state: str) -> None:
        fields = {"event": "ended", "state": state}
        _logger.warning("job %s did not notice that it is to end: its process ends", self._lease.job_id, extra=fields)
        os._exit(os.EX_TEMPFAIL)


class RemainingTime:
    """Passes progress on, and estimates the duration of the whole job from the second report of products on.

    Args:
        request: Request of the job.
        plan: Planned cost of the job.
        device: Device on which the job runs.
        report: Called with the progress that this object receives.
        expect: Called with the seconds from the beginning of the job to its end, again whenever twice as much is done.
        clock: Returns a time in seconds.
    """

    def __init__(
        self,
        request: SpectrumRequest,
        plan: ComputationPlan,
        device: torch.device,
        *,
        report: Progress,
        expect: Callable[[float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._work, self._device = plan.work, device
        self._itemsize = 8 if request.vector_precision == "float64" else 4
        self._report, self._expect, self._clock = report, expect, clock
        has_fixed_products = request.method.method_kind.has_fixed_products
        self._is_fixed = has_fixed_products is None or has_fixed_products(request.method)
        self._started = clock()
        self._first: tuple[float, int] | None = None  # when products were first reported, and how many
        self._next = 0  # products at which to look again
        self._rates: Rates | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note of the progress, and pass it on."""
        if phase == "products" and self._is_fixed and 0 < done < total and done >= self._next:
            self._look(done, total)
        self._report(phase, done, total)

    def _look(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:  # recording included, which says nothing of what follows
            self._first, self._next = (now, done), done + 1
            self._measure()
            return
        rates = self._measure()
        seconds_per_product = (now - self._first[0]) / (done - self._first[1])
        left = 1 - done / total
        moving = left * moving_seconds(self._work, rates, self._itemsize)
        dense = dense_seconds(self._work, rates)
        self._expect(now - self._started + (total - done) * seconds_per_product + moving + dense)
        self._next = 2 * done

    def _measure(self) -> Rates:
        """Return the best rates measured so far, since disturbances only slow a measurement of milliseconds."""
        new, old = _rates(self._work, self._device, self._itemsize), self._rates
        if old is not None:
            new = replace(
                new,
                bytes_per_second=max(new.bytes_per_second, old.bytes_per_second),
                eigenvalue_seconds=min(new.eigenvalue_seconds, old.eigenvalue_seconds),
            )
        self._rates = new
        return new


def _rates(work: Work, device: torch.device, itemsize: int) -> Rates:
    """Measure the rates that matter for this work."""
    moves = work.moved_numbers * itemsize > LEAST_MOVED_BYTES
    return Rates(
        recording_seconds=0.0,
        seconds_per_product=0.0,
        bytes_per_second=vector_rate(device) if moves else float("inf"),
        eigenvalue_seconds=eigenvalue_seconds() if work.dense_order > LEAST_ORDER else 0.0,
    )


class MemoryGuard:
    """A thread that ends this process when it has grown by more than a limit since the guard was entered.

    What counts is private memory, resident or swapped out: pages of libraries and of mapped files do not. A computation
    is not asked to stop first, as what it took would come back to the machine only in part.

    Args:
        limit_bytes: Largest growth in bytes; None: without limit.
        fail: Called with the problem before the process ends.
    """

    def __init__(self, limit_bytes: int | None, fail: Callable[[Problem], object]) -> None:
        self._limit, self._fail = limit_bytes, fail
        self._before = 0
        self._closed = threading.Event()
        context = contextvars.copy_context()  # so that the thread's lines name the job, too
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="memory-guard", daemon=True)

    def __enter__(self) -> Self:
        if self._limit is not None:
            self._before = private_bytes()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._limit is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_MEMORY_CHECKS):
            taken = private_bytes() - self._before
            if self._limit is not None and taken > self._limit:
                self._end(taken, self._limit)

    def _end(self, taken: int, limit: int) -> None:
        threading.Thread(target=self._end_later, name="memory-guard-end", daemon=True).start()
        try:
            self._fail(memory_limit_exceeded(taken, limit))
        except Exception:  # the process ends whatever happens here
            _logger.exception("the end of a job could not be written")
        fields = {"event": "ended", "state": "failed"}
        _logger.warning("the job took %s: its process ends", gibibytes(taken), extra=fields)
        os._exit(os.EX_TEMPFAIL)

    def _end_later(self) -> None:
        threading.Event().wait(SECONDS_TO_REPORT)
        os._exit(os.EX_TEMPFAIL)


def memory_limit_exceeded(taken: int, limit: int) -> Problem:
    """Return the problem of a job that took more memory than its limit."""
    return Problem(
        type="/problems/memory-limit",
        title="The job outgrew its memory",
        status=507,
        detail=f"It had taken {gibibytes(taken)} when it was ended; the limit of one job on this worker is "
        f"{gibibytes(limit)}.",
    )


def private_bytes() -> int:
    """Return the bytes of memory that belong to this process alone; 0 where the system does not tell."""
    try:
        return sum(1024 * int(kibibytes) for kibibytes in _PRIVATE.findall(_STATUS.read_text()))
    except OSError:
        return 0
