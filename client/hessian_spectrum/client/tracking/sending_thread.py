"""The thread that sends the points of a run while it goes on."""

import threading
from collections.abc import Callable
from typing import Any

from hessian_spectrum.client.client_base import ClientBase
from hessian_spectrum.client.errors import ServerUnreachableError, SpectrumClientError
from hessian_spectrum.client.retries import Backoff
from hessian_spectrum.client.tracking.sender import Sender, may_be_repeated
from hessian_spectrum.client.tracking.spool import LARGEST_BATCH, Spool, SpoolClosedError

GATHERING_SECONDS = 5.0
"""Time in which points gather before they are sent, so that a fast loop does not make a job of each."""


class SendingThread:
    """Sends what is in a spool, for as long as it takes.

    While the server is away or busy, it tries again, with growing pauses. If the server refuses something, it stops:
    the points stay in the spool.

    Args:
        client: Client of the server, without patience of its own.
        spool: Spool of the run.
        report: Called with the kind of a problem and with a message for people.
    """

    def __init__(self, client: ClientBase[Any], spool: Spool, report: Callable[[str, str], None]) -> None:
        self._sender, self._spool, self._report = Sender(client, spool), spool, report
        self._backoff = Backoff()
        self._condition = threading.Condition()
        self._is_finishing = self._is_over = self._is_hurried = False
        assert spool.run is not None
        self._thread = threading.Thread(target=self._run, name=f"send {spool.run.name}", daemon=True)
        self.start = self._thread.start

    @property
    def job_ids(self) -> list[str]:
        """Ids of the jobs that measure the points sent so far."""
        return list(self._sender.job_ids)

    @property
    def is_alive(self) -> bool:
        """Whether it may still send something."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Look for new points."""
        with self._condition:
            self._condition.notify_all()

    def hurry(self) -> None:
        """Send the points so far without waiting for more."""
        with self._condition:
            self._is_hurried = True
            self._condition.notify_all()

    def finish(self, wait: float) -> None:
        """Send the rest while the server answers, for at most `wait` seconds, and end."""
        with self._condition:
            self._is_finishing = True
            self._condition.notify_all()
        self._thread.join(wait)
        with self._condition:
            self._is_over = True
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            while self._continue():
                pass
        except SpoolClosedError:
            return
        except Exception as error:  # noqa: BLE001 - the training run must not end for it
            if not self._is_over:
                self._report("refused", f"points are kept in {self._spool.directory} and not sent: {error}")

    def _continue(self) -> bool:
        """Send one batch, or wait; return whether there may be more to do."""
        try:
            num_points = self._sender.send_batch()
        except SpectrumClientError as error:
            if not may_be_repeated(error):
                raise
            self._report("away", f"points are kept in {self._spool.directory} until the server answers: {error}")
            if self._is_finishing and isinstance(error, ServerUnreachableError):
                return False
            self._pause(self._backoff.next_seconds(error), until_finishing=isinstance(error, ServerUnreachableError))
            return not self._is_over
        self._backoff.reset()
        if num_points == 0 and self._is_finishing:
            return False
        if num_points < LARGEST_BATCH:
            self._gather(is_idle=num_points == 0)
        return not self._is_over

    def _gather(self, *, is_idle: bool) -> None:
        """Wait for new points, and for more to come."""
        with self._condition:
            self._is_hurried = self._is_hurried and not is_idle
            self._condition.wait_for(lambda: self._spool.num_points or self._is_finishing)
            self._condition.wait_for(lambda: self._is_hurried or self._is_finishing, timeout=GATHERING_SECONDS)

    def _pause(self, seconds: float, *, until_finishing: bool) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._is_over or (until_finishing and self._is_finishing), timeout=seconds)
