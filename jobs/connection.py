"""How processes reach Redis."""

from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_TIMEOUT_SECONDS = 3.0


def connect(redis_url: str) -> redis.Redis:
    """A client whose every call answers or raises within seconds.

    One retry, at once: a connection from the pool may have been closed by a server that restarted.
    """
    return redis.Redis.from_url(
        redis_url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_keepalive=True if not redis_url.startswith("unix://") else None,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 1),
    )


def broker_url(redis_url: str) -> str:
    """The same server as Celery's transport names it."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"
