"""What workers tell the service through Redis: their status, in heartbeats, and their verdicts on checkpoints."""

import logging
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


def registered_result_versions(client: redis.Redis) -> list[str]:
    """The result versions of the registered workers, without repetition."""
    return sorted({worker.code_version for worker in registered_workers(client) if worker.code_version})


def _now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


SECONDS_KEPT = 30 * 86400
SECONDS_UNTIL_ANOTHER_TRIAL = 3600
"""After one that came to no end: for want of memory or of time, or because its process was killed."""

_KEY = "spectrum:checkpoint-verdict:"
_TRIAL = "spectrum:checkpoint-trial:"

_logger = logging.getLogger(__name__)


class VerdictStore:
    """The verdicts of these versions of the code; a `Verdicts`.

    Args:
        code_versions: Asked each time: those of the workers that are there.
    """

    def __init__(self, client: redis.Redis, code_versions: Callable[[], Iterable[str]]) -> None:
        self._client = client
        self._code_versions = code_versions

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """That of the version that can do most with the checkpoint; None if none tried it, or Redis is away."""
        try:
            keys = [_name(_KEY, version, sha256, kind) for version in self._code_versions()]
            texts = cast("list[str | None]", self._client.mget(keys)) if keys else []
        except RedisError as error:
            _logger.warning("verdicts on checkpoints are not known: %s", error)
            return None
        found = [CheckpointVerdict.model_validate_json(text) for text in texts if text]
        order = ("loadable", "refused", "unchecked")
        return min(found, key=lambda verdict: order.index(verdict.state), default=None)

    def keep(self, sha256: str, kind: str, verdict: CheckpointVerdict) -> None:
        """Of a trial by this worker, whose version is the only one.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        seconds = SECONDS_UNTIL_ANOTHER_TRIAL if verdict.state == "unchecked" else SECONDS_KEPT
        self._client.set(_name(_KEY, version, sha256, kind), verdict.model_dump_json(), ex=seconds)

    def may_try(self, sha256: str, kind: str, seconds: float) -> bool:
        """Whether no other worker is trying the checkpoint; from now on this one is, for so long at most.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        return bool(self._client.set(_name(_TRIAL, version, sha256, kind), "", nx=True, ex=int(seconds)))

    def has_tried(self, sha256: str, kind: str) -> None:
        """Raises:  RedisError."""
        (version,) = self._code_versions()
        self._client.delete(_name(_TRIAL, version, sha256, kind))


def _name(prefix: str, version: str, sha256: str, kind: str) -> str:
    return f"{prefix}{version}:{kind}:{sha256}"


_PROC = Path("/proc")


def resident_bytes(pid: int) -> int:
    """Of a process and all of its children, pages that they share counted in each; 0 where there is no /proc."""
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
