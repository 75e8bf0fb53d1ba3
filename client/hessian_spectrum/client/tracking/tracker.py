"""A tracked training run: a thread writes copies of the parameters to disk, and another sends them."""

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from queue import Queue
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hessian_spectrum.api_schemas.experiments.series import SeriesResult
from hessian_spectrum.client.arrays import UnfitArrayError
from hessian_spectrum.client.tracking.sending_thread import SendingThread
from hessian_spectrum.client.tracking.spool import Spool

if TYPE_CHECKING:
    from hessian_spectrum.client.http import SpectrumClient
    from hessian_spectrum.client.tracking.snapshots import Snapshot, Snapshots

MEMORY_BYTES = 256 * 2**20
"""Default limit on the size of the copies that wait to be written; two copies are always allowed."""

CLOSE_SECONDS = 60.0
"""Default time that closing waits for the rest to be sent, while the server answers."""

_POLL_SECONDS = 0.05

_logger = logging.getLogger(__name__)


class Tracker:
    """Records a training run; made by `SpectrumClient.track`.

    `step` waits only until the parameters are copied. Threads write the copies to a directory and send them; the files
    stay until the server has acknowledged them. Problems are logged, each kind once, and never raised in the loop.

    Args:
        client: Client for questions about the series.
        sending_client: Client of the thread that sends, which the tracker closes.
        spool: Directory of the run.
        snapshots: Copies of the parameters.
        every: Every how many calls of `step` the parameters are copied.
        learning_rate: Learning rate of steps that do not state another.

    Attributes:
        name: Name of the series.
        directory: The directory of the run.
    """

    def __init__(
        self,
        client: "SpectrumClient",
        sending_client: "SpectrumClient",
        spool: Spool,
        snapshots: "Snapshots",
        *,
        every: int,
        learning_rate: float | None = None,
    ) -> None:
        assert spool.run is not None
        self.name, self.directory = spool.run.name, spool.directory
        self._client, self._sending_client = client, sending_client
        self._spool, self._snapshots = spool, snapshots
        self._every, self._learning_rate = every, learning_rate
        self._num_calls = 0
        self._steps: set[int] = set()
        self._is_closed = False
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._num_dropped = 0
        self._process = os.getpid()
        self._copies: Queue[tuple[int, float | None, Snapshot] | None] = Queue()
        self._sending = SendingThread(sending_client, spool, self._report)
        self._writer = threading.Thread(target=self._write, name=f"write {self.name}", daemon=True)
        self._writer.start()
        self._sending.start()
        atexit.register(self.close, wait=0.0)

    def step(self, step: int | None = None, learning_rate: float | None = None) -> None:
        """Record the parameters as they are now, on the first call and on every `every`-th after it.

        Nothing is raised: a point that cannot be recorded is dropped with a warning.

        Args:
            step: Label of the point, not negative; None: the number of calls before this one. A step that was recorded
                before is ignored.
            learning_rate: Learning rate at this step; None: that of the tracker.
        """
        if self._is_closed:
            self._drop("the tracker is closed")
            return
        index = self._num_calls
        self._num_calls += 1
        if index % self._every:
            return
        try:
            label = _checked_step(index if step is None else step)
            rate = _positive(self._learning_rate if learning_rate is None else learning_rate)
        except Exception as error:  # noqa: BLE001 - whatever happens, training continues
            self._drop(f"its step or learning rate cannot be used: {error}")
            return
        if label not in self._steps:
            self._record(label, rate)

    def _record(self, step: int, rate: float | None) -> None:
        try:
            snapshot = self._snapshots.take()
        except Exception as error:  # noqa: BLE001 - whatever happens, training continues
            self._drop(f"the parameters could not be copied: {error}")
            return
        if snapshot is None:
            self._drop("the disk is slower than the loop, and the memory for copies is used up")
            return
        self._steps.add(step)
        self._copies.put((step, rate, snapshot))

    def series(self, wait: float = 0.0) -> SeriesResult:
        """Return the curve as the server has it.

        Args:
            wait: Time in seconds to wait at most until the points so far are sent and measured.

        Returns:
            The series; `points` lists step, learning rate and results.

        Raises:
            SpectrumClientError: If the server does not answer, or has no point of this series.
        """
        self._wait_until_measured(wait)
        return self._client.series(self.name)

    def picture(self, wait: float = 0.0) -> bytes:
        """Return the plot of the curve as PNG, after at most `wait` seconds as in `series`."""
        self._wait_until_measured(wait)
        return self._client.series_file(self.name, "png")

    def close(self, wait: float = CLOSE_SECONDS) -> None:
        """Write all copies to disk, and send what remains while the server answers.

        Points that are not sent stay in the directory: `SpectrumClient.send_tracked` and `spectrum track send` send
        them. If all were sent, the directory is removed.

        Args:
            wait: Time in seconds to wait at most for the rest to be sent.
        """
        if self._is_closed or os.getpid() != self._process:  # a forked process has no threads to close
            return
        self._is_closed = True
        atexit.unregister(self.close)
        self._copies.put(None)
        self._writer.join()
        self._sending.finish(wait)
        num_left = self._spool.num_points
        if num_left:
            self._spool.abandon()
            _logger.warning(
                "%d points of %s were not sent; to send them later: spectrum track send %s",
                num_left,
                self.name,
                self.directory,
            )
        else:
            self._remove()
        if self._num_dropped:
            _logger.warning("%d points of %s were dropped", self._num_dropped, self.name)
        self._sending_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remove(self) -> None:
        try:
            self._spool.remove()
        except OSError as error:
            self._report("removal", f"{self.directory} could not be removed: {error}")
            self._spool.abandon()

    def _write(self) -> None:
        """Write copies to disk until the end."""
        while (each := self._copies.get()) is not None:
            step, rate, snapshot = each
            try:
                num_dropped = self._spool.add(step, rate, snapshot.arrays())
            except UnfitArrayError as error:
                self._drop(f"step {step} cannot be measured: {error}")
            except Exception as error:  # noqa: BLE001 - a full disk, for example
                self._drop(f"step {step} could not be written to {self.directory}: {error}")
            else:
                if num_dropped:
                    self._drop(f"the limit of disk space for {self.directory} is reached", abs(num_dropped))
                self._sending.wake()
            finally:
                self._snapshots.give_back(snapshot)
                self._copies.task_done()

    def _drop(self, reason: str, num_points: int = 1) -> None:
        with self._lock:
            self._num_dropped += num_points
        kind = reason.partition(":")[0].translate(_WITHOUT_DIGITS)
        self._report(kind, f"a point of {self.name} is dropped: {reason}")

    def _report(self, kind: str, message: str) -> None:
        """Log a warning, once for each kind."""
        with self._lock:
            is_new = kind not in self._reported
            self._reported.add(kind)
        if is_new:
            _logger.warning("%s", message)

    def _wait_until_measured(self, wait: float) -> None:
        deadline = time.monotonic() + wait
        stages: list[Callable[[], int]] = [lambda: self._copies.unfinished_tasks, lambda: self._spool.num_points]
        for num_left in stages:
            while num_left() and self._sending.is_alive and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            self._sending.hurry()
        for job_id in self._sending.job_ids:
            if (seconds := deadline - time.monotonic()) > 0:
                self._client.wait(job_id, seconds)


def _checked_step(step: int) -> int:
    if (number := int(step)) < 0:
        raise ValueError(f"step {number} is negative")
    return number


def _positive(learning_rate: float | None) -> float | None:
    """Return a learning rate that has a threshold 2 / learning_rate; None for others, such as 0 during warm-up."""
    rate = 0.0 if learning_rate is None else float(learning_rate)
    return rate if 0.0 < rate < math.inf else None


_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")
