"""Messages of workers to the service through Redis: heartbeats with their status, and verdicts on checkpoints."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict
from hessian_spectrum.api_schemas.health import WorkerStatus

_STATUSES = "spectrum:workers"  # hash: status of each worker, by its name
_HEARTBEATS = "spectrum:workers-seen"  # sorted set: names by the time of the last heartbeat, by the clock of Redis
SECONDS_BETWEEN_HEARTBEATS = 4
SECONDS_WITHOUT_HEARTBEAT = 15
"""Time without a heartbeat after which a worker counts as gone."""

SECONDS_BETWEEN_READS = 1.0
"""Time for which a service takes the workers for what they were."""

SECONDS_KEPT = 30 * 86400
SECONDS_UNTIL_ANOTHER_TRIAL = 3600
"""Time until a trial is repeated that did not finish, for lack of memory or time or because its process was killed."""

_KEY = "spectrum:checkpoint-verdict:"
_TRIAL = "spectrum:checkpoint-trial:"

_logger = logging.getLogger(__name__)

_PROC = Path("/proc")


def register(client: redis.Redis, status: WorkerStatus) -> None:
    """Send a heartbeat with the status of a worker, and remove workers whose heartbeats have stopped."""
    now = _now(client)
    with client.pipeline() as pipeline:
        measured = status.model_copy(update={"clock_skew_seconds": round(time.time() - now, 3)})
        pipeline.hset(_STATUSES, status.name, measured.model_dump_json())
        pipeline.zadd(_HEARTBEATS, {status.name: now})
        pipeline.execute()
    last = f"({now - SECONDS_WITHOUT_HEARTBEAT}"
    for name in cast("list[str]", client.zrange(_HEARTBEATS, "-inf", last, byscore=True)):
        unregister(client, name)


def unregister(client: redis.Redis, name: str) -> None:
    """Remove a worker that stops."""
    with client.pipeline() as pipeline:
        pipeline.zrem(_HEARTBEATS, name)
        pipeline.hdel(_STATUSES, name)
        pipeline.execute()


def registered_workers(client: redis.Redis) -> list[WorkerStatus]:
    """The workers with a recent heartbeat, sorted by name."""
    since = _now(client) - SECONDS_WITHOUT_HEARTBEAT
    names = sorted(cast("list[str]", client.zrange(_HEARTBEATS, cast("int", since), cast("int", "+inf"), byscore=True)))
    texts = cast("list[str | None]", client.hmget(_STATUSES, names)) if names else []
    return [WorkerStatus.model_validate_json(text) for text in texts if text]


class RecentWorkers:
    """The registered workers for all requests of one service, which reads them at most once a second.

    As long as there is no worker they are read each time, so that the first one is seen at once.

    Args:
        client: Client of Redis.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._workers: list[WorkerStatus] = []
        self._read_again_at = 0.0

    def __call__(self) -> list[WorkerStatus]:
        """Return the workers, sorted by name; raises RedisError if Redis does not answer."""
        with self._lock:  # of many requests at once, one reads and the others wait for it
            if not self._workers or time.monotonic() >= self._read_again_at:
                self._workers = registered_workers(self._client)
                self._read_again_at = time.monotonic() + SECONDS_BETWEEN_READS
            return self._workers

    def result_versions(self) -> list[str]:
        """Return the result versions of the workers, without repetition."""
        return sorted({worker.code_version for worker in self() if worker.code_version})

    def available_bytes(self) -> int | None:
        """Return the bytes of one job at the worker with the least memory, as any may take it; None without workers."""
        return min((worker.memory_bytes for worker in self()), default=None)


def _now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


class VerdictStore:
    """Verdicts on checkpoints by digest, kind of model and version of the software that tried them; a `Verdicts`.

    Args:
        client: Client of Redis.
        code_versions: Returns the versions whose verdicts count: those of the registered workers.
    """

    def __init__(self, client: redis.Redis, code_versions: Callable[[], Iterable[str]]) -> None:
        self._client = client
        self._code_versions = code_versions

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """The best verdict on a checkpoint among the versions; None if none tried it, or Redis does not answer."""
        try:
            keys = [_name(_KEY, version, sha256=sha256, kind=kind) for version in self._code_versions()]
            texts = cast("list[str | None]", self._client.mget(keys)) if keys else []
        except RedisError as error:
            _logger.warning("verdicts on checkpoints are not known: %s", error)
            return None
        verdicts = [CheckpointVerdict.model_validate_json(text) for text in texts if text]
        order = ("loadable", "refused", "unchecked")
        return min(verdicts, key=lambda verdict: order.index(verdict.state), default=None)

    def keep(self, sha256: str, kind: str, verdict: CheckpointVerdict) -> None:
        """Store the verdict of this worker, whose version is the only one of this store.

        Args:
            sha256: Digest of the checkpoint.
            kind: Kind of the model that it was tried as.
            verdict: The verdict.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        seconds = SECONDS_UNTIL_ANOTHER_TRIAL if verdict.state == "unchecked" else SECONDS_KEPT
        self._client.set(_name(_KEY, version, sha256=sha256, kind=kind), verdict.model_dump_json(), ex=seconds)

    def may_try(self, sha256: str, kind: str, seconds: float) -> bool:
        """Claim the trial of a checkpoint for this worker.

        Args:
            sha256: Digest of the checkpoint.
            kind: Kind of the model that it is tried as.
            seconds: Time after which another worker may try.

        Returns:
            False if another worker is trying it.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        return bool(self._client.set(_name(_TRIAL, version, sha256=sha256, kind=kind), "", nx=True, ex=int(seconds)))

    def has_tried(self, sha256: str, kind: str) -> None:
        """End the claim of `may_try`.

        Args:
            sha256: Digest of the checkpoint.
            kind: Kind of the model that it was tried as.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        self._client.delete(_name(_TRIAL, version, sha256=sha256, kind=kind))


def _name(prefix: str, version: str, *, sha256: str, kind: str) -> str:
    return f"{prefix}{version}:{kind}:{sha256}"


def resident_bytes(pid: int) -> int:
    """Memory of a process and its children, each with all pages that it shares; 0 where there is no /proc."""
    total = 0
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = 1024 * int(line.split()[1])
        tasks = list((_PROC / str(pid) / "task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return total
    return total + sum(resident_bytes(int(child)) for child in children)
