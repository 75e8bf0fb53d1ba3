"""Registry of running workers: each sends heartbeats to Redis, and those of the last seconds count as running."""

import time
from typing import cast

import redis

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
