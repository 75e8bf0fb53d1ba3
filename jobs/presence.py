"""Workers say that they are there; whoever asks sees those that said so lately."""

import redis

from api_schemas.health import WorkerStatus

_KEY = "spectrum:worker:"
SECONDS_BETWEEN_SIGNS = 4
SECONDS_REMEMBERED = 15


def announce(client: redis.Redis, status: WorkerStatus) -> None:
    """Be seen for the next seconds."""
    client.set(_KEY + status.name, status.model_dump_json(), ex=SECONDS_REMEMBERED)


def withdraw(client: redis.Redis, name: str) -> None:
    """Be seen no more."""
    client.delete(_KEY + name)


def present_workers(client: redis.Redis) -> list[WorkerStatus]:
    """The workers that announced themselves within the last seconds, by name."""
    keys = sorted(client.scan_iter(match=_KEY + "*", count=1000))
    texts = client.mget(keys) if keys else []
    return [WorkerStatus.model_validate_json(text) for text in texts if text]
