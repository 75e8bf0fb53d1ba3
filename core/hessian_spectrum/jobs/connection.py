"""How processes reach Redis."""

import ssl
import time
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from hessian_spectrum.jobs.settings import SettingsError

SOCKET_TIMEOUT_SECONDS = 2.0
"""So that a service which finds Redis frozen says so within 3 s."""

SECONDS_OF_SILENCE = 0.5

_CLOSED = (redis.ConnectionError,)
_TCP_OPTIONS: dict[str, Any] = {"socket_connect_timeout": SOCKET_TIMEOUT_SECONDS, "socket_keepalive": True}


def connect(redis_url: str, *, patient: bool = False) -> redis.Redis:
    """A client whose every call answers or raises within seconds; a patient one outlasts a restart of Redis.

    Even the impatient one tries twice where a connection is closed: that of the pool may be one of a server that
    restarted. A server that is silent is not asked again for half a second: callers who stand in line for a thread do
    not wait for it one after the other.
    """
    retry = Retry(ExponentialBackoff(cap=2.0, base=0.1), 20) if patient else _Fuse()
    return redis.Redis.from_url(redis_url, retry=retry, **_options(redis_url))


def connect_async(redis_url: str) -> redis.asyncio.Redis:
    """The same for asyncio."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, _CLOSED)
    return redis.asyncio.Redis.from_url(redis_url, retry=retry, **_options(redis_url))


def require_entry(redis_url: str) -> None:
    """Make sure that Redis lets this process in, if it answers at all; one that is away is waited for later.

    Raises:
        SettingsError: If its certificate, or the user, or the password is not the right one.
    """
    try:
        with connect(redis_url) as client:
            client.ping()
    except redis.AuthenticationError as error:
        raise SettingsError(f"SPECTRUM_REDIS_URL: Redis refuses user or password: {error}") from None
    except redis.RedisError as error:
        if reason := _tls_error(error):
            raise SettingsError(f"SPECTRUM_REDIS_URL: no connection by TLS: {reason}") from None


class _Fuse(Retry):
    """Tries of one client, all of whose connections share it."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 1, _CLOSED)
        self._silent_since = -SECONDS_OF_SILENCE

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def call_with_retry(self, do: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
        """Raises:  redis.TimeoutError at once where another call waited in vain a moment ago."""
        if time.monotonic() - self._silent_since < SECONDS_OF_SILENCE:
            raise redis.TimeoutError("Redis did not answer a moment ago")
        try:
            return super().call_with_retry(do, *arguments, **options)
        except redis.TimeoutError:
            self._silent_since = time.monotonic()
            raise


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _options(redis_url: str) -> dict[str, Any]:
    options = {} if redis_url.startswith("unix://") else _TCP_OPTIONS
    return {
        "decode_responses": True,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "health_check_interval": 25,
        # Requests and listeners are bounded where they are let in; redis-py would refuse the 101st of them.
        "max_connections": 100_000,
        **options,
    }


def broker_url(redis_url: str) -> str:
    """The same server as Celery's transport names it."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"
