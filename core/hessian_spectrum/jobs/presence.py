"""Workers say that they are there; whoever asks sees those that said so lately."""

import time
from typing import cast

import redis

from hessian_spectrum.api_schemas.health import WorkerStatus

_STATUSES = "spectrum:workers"  # by name
_SEEN = "spectrum:workers-seen"  # names by the time, as Redis has it, of the last sign
SECONDS_BETWEEN_SIGNS = 4
SECONDS_REMEMBERED = 15


def announce(client: redis.Redis, status: WorkerStatus) -> None:
    """Be seen for the next seconds."""
    now = _now(client)
    with client.pipeline() as pipeline:
        told = status.model_copy(update={"clock_skew_seconds": round(time.time() - now, 3)})
        pipeline.hset(_STATUSES, status.name, told.model_dump_json())
        pipeline.zadd(_SEEN, {status.name: now})
        pipeline.execute()
    for name in cast("list[str]", client.zrange(_SEEN, "-inf", f"({now - SECONDS_REMEMBERED}", byscore=True)):
        withdraw(client, name)


def withdraw(client: redis.Redis, name: str) -> None:
    """Be seen no more."""
    with client.pipeline() as pipeline:
        pipeline.zrem(_SEEN, name)
        pipeline.hdel(_STATUSES, name)
        pipeline.execute()


def present_workers(client: redis.Redis) -> list[WorkerStatus]:
    """The workers that announced themselves within the last seconds, by name."""
    since = _now(client) - SECONDS_REMEMBERED
    names = sorted(cast("list[str]", client.zrange(_SEEN, cast("int", since), cast("int", "+inf"), byscore=True)))
    texts = cast("list[str | None]", client.hmget(_STATUSES, names)) if names else []
    return [WorkerStatus.model_validate_json(text) for text in texts if text]


def present_code_versions(client: redis.Redis) -> list[str]:
    """Of the workers that are there: what they would compute with."""
    return sorted({worker.code_version for worker in present_workers(client) if worker.code_version})


def _now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6
