"""A thread of a worker's first process that has checkpoints tried which nobody has tried yet."""

import logging
import threading
from collections.abc import Iterator

from celery.worker import state
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.checkpoints import CheckpointError
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck

SECONDS_BETWEEN_LOOKS = 5.0
"""At the models directory."""

BESIDE_A_JOB_BYTES = 2**31
"""That a trial may take while this worker computes; a larger one waits until it does not."""

_logger = logging.getLogger(__name__)


class _JobArrivedError(Exception):
    """A trial that may take much gives way."""


class _StoppedError(Exception):
    """The worker stops."""


class CheckpointInspector:
    """Looks for checkpoints without a verdict and tries one at a time.

    No caller starts a trial, so none can ask for many. Each has its bounds of time and memory, and no two workers try
    the same checkpoint.

    Args:
        check: Of nobody else, as the pool's processes are forked while it works.
        memory_bytes: Of a trial at most.
    """

    def __init__(self, check: CheckpointCheck, memory_bytes: int | None) -> None:
        self._check = check
        self._memory_bytes = memory_bytes
        self._stopping = threading.Event()
        self._large: set[str] = set()  # digests of those that took more than is free beside a job
        self._thread = threading.Thread(target=self._run, name="checkpoint-inspector", daemon=True)

    def start(self) -> None:
        """Begin, once."""
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
        """Try every checkpoint that has no verdict, and may be tried now.

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
        """With little memory first; if that is not enough, at the next look with all that a job may take."""
        small = BESIDE_A_JOB_BYTES if self._memory_bytes is None else min(BESIDE_A_JOB_BYTES, self._memory_bytes)
        if sha256 in self._large:
            self._check.checked(name, sha256, kind, self._memory_bytes, self._look_while_idle)
            self._large.discard(sha256)
        elif self._check.checked(name, sha256, kind, small, self._look).state == "unchecked":
            self._large.add(sha256)

    def _look(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _look_while_idle(self) -> None:
        self._look()
        if _is_busy():
            raise _JobArrivedError

    def _untried(self) -> Iterator[tuple[str, str, str]]:
        """Name, digest and kind."""
        for model in self._check.models.describe_all():
            if self._stopping.is_set():
                return
            if model.state == "unchecked" and model.sha256 is not None and model.kind is not None:
                known = self._check.verdicts.of(model.sha256, model.kind)
                if known is None or model.sha256 in self._large:
                    yield model.name, model.sha256, model.kind


def _is_busy() -> bool:
    """Whether this worker computes a job."""
    return bool(state.active_requests)
