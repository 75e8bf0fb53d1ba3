"""A thread of a worker's main process that starts trials of checkpoints that have no verdict yet."""

import logging
import threading
from collections.abc import Iterator

from celery.worker import state
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.checkpoints import CheckpointError
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck

SECONDS_BETWEEN_LOOKS = 5.0
"""Seconds between two looks at the models directory."""

BESIDE_A_JOB_BYTES = 2**31
"""Memory in bytes that a trial may take while this worker computes; a larger trial waits until the worker is idle."""

_logger = logging.getLogger(__name__)


class _JobArrivedError(Exception):
    """Raised in a trial that may take much memory when a job arrives, to end the trial."""


class _StoppedError(Exception):
    """Raised in a trial when the worker stops."""


class CheckpointInspector:
    """Looks for checkpoints without a verdict and tries one at a time.

    No caller starts a trial, so none can ask for many. Each has its bounds of time and memory, and no two workers try
    the same checkpoint.

    Args:
        check: The check, used by this thread alone, as the pool's processes are forked while it works.
        memory_bytes: Largest memory of a trial; None: no limit.
    """

    def __init__(self, check: CheckpointCheck, memory_bytes: int | None) -> None:
        self._check = check
        self._memory_bytes = memory_bytes
        self._stopping = threading.Event()
        self._large: set[str] = set()  # digests of checkpoints that need more memory than is free beside a job
        self._thread = threading.Thread(target=self._run, name="checkpoint-inspector", daemon=True)

    def start(self) -> None:
        """Start the thread; to be called once."""
        if self._check.models.path is not None:
            self._thread.start()

    def stop(self) -> None:
        """End, with the trial that goes on."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.look_through()
            except (_JobArrivedError, _StoppedError):
                continue
            except (RedisError, CheckpointError, OSError) as error:
                _logger.warning("checkpoints are not tried: %s", error)
            except Exception:  # the next look may find other files
                _logger.exception("checkpoints are not tried")

    def look_through(self) -> None:
        """Try every checkpoint that has no verdict and may be tried now.

        Raises:
            RedisError: Redis does not answer.
            CheckpointError: If the models directory cannot be read.
        """
        verdicts = self._check.verdicts
        for name, sha256, kind in self._untried():
            if sha256 in self._large and _is_busy():
                continue
            if not verdicts.may_try(sha256, kind, seconds=4 * self._check.seconds):
                continue
            try:
                self._try(name, sha256, kind)
            finally:
                verdicts.has_tried(sha256, kind)

    def _try(self, name: str, sha256: str, kind: str) -> None:
        """Try with little memory first; if that is not enough, try at the next look with all that a job may take."""
        small = BESIDE_A_JOB_BYTES if self._memory_bytes is None else min(BESIDE_A_JOB_BYTES, self._memory_bytes)
        if sha256 in self._large:
            self._check.checked(name, sha256, kind, memory_bytes=self._memory_bytes, look=self._look_while_idle)
            self._large.discard(sha256)
        elif self._check.checked(name, sha256, kind, memory_bytes=small, look=self._look).state == "unchecked":
            self._large.add(sha256)

    def _look(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _look_while_idle(self) -> None:
        self._look()
        if _is_busy():
            raise _JobArrivedError

    def _untried(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, digest and kind of each checkpoint that has not been tried."""
        for model in self._check.models.describe_all():
            if self._stopping.is_set():
                return
            if model.state == "unchecked" and model.sha256 is not None and model.kind is not None:
                known = self._check.verdicts.of(model.sha256, model.kind)
                if known is None or model.sha256 in self._large:
                    yield model.name, model.sha256, model.kind


def _is_busy() -> bool:
    """Return whether this worker is computing a job."""
    return bool(state.active_requests)
