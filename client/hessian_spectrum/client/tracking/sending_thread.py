"""The thread that sends the points of a run while it goes on."""

import threading
from collections.abc import Callable

from hessian_spectrum.client.client_base import ClientBase
from hessian_spectrum.client.errors import ServerUnreachableError, SpectrumClientError
from hessian_spectrum.client.retries import Backoff
from hessian_spectrum.client.tracking.sender import Sender, may_pass
from hessian_spectrum.client.tracking.spool import Spool, SpoolClosedError

SECONDS_BETWEEN_BATCHES = 1.0
"""Time in which points gather, so that a fast loop does not make a job of each."""


class SendingThread:
    """Sends what is in a spool, for as long as it takes.

    While the server is away or busy, it tries again, with growing pauses. If the server refuses something, it stops:
    the points stay in the spool.

    Args:
        client: Client of the server, without patience of its own.
        spool: Spool of the run.
        report: Called with the kind of a problem and with a message for people.
    """

    def __init__(self, client: ClientBase, spool: Spool, report: Callable[[str, str], None]) -> None:
        self._sender, self._spool, self._report = Sender(client, spool), spool, report
        self._backoff = Backoff()
        self._condition = threading.Condition()
        self._is_finishing = self._is_over = self._has_work = False
        assert spool.run is not None
        self._thread = threading.Thread(target=self._run, name=f"send {spool.run.name}", daemon=True)
        self.start = self._thread.start

    @property
    def job_ids(self) -> list[str]:
        """Ids of the jobs that measure the points sent so far."""
        return list(self._sender.job_ids)

    def wake(self) -> None:
        """Look for new points."""
        with self._condition:
            self._has_work = True
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
        with self._condition:
            self._has_work = False
        try:
            num_points = self._sender.send_batch()
        except SpectrumClientError as error:
            if not may_pass(error):
                raise
            self._report("away", f"points are kept in {self._spool.directory} until the server answers: {error}")
            if self._is_finishing and isinstance(error, ServerUnreachableError):
                return False
            self._pause(self._backoff.next_seconds(error), until_finishing=isinstance(error, ServerUnreachableError))
            return not self._is_over
        self._backoff.reset()
        if num_points:
            self._pause(SECONDS_BETWEEN_BATCHES, until_finishing=True)
        elif self._is_finishing:
            return False
        else:
            with self._condition:
                self._condition.wait_for(lambda: self._has_work or self._is_finishing)
        return not self._is_over

    def _pause(self, seconds: float, *, until_finishing: bool) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._is_over or (until_finishing and self._is_finishing), timeout=seconds)
