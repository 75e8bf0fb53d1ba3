"""Connections to Redis, and the classification of their errors."""

import re
import ssl
import time
from collections.abc import Callable
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
from kombu.exceptions import OperationalError
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from hessian_spectrum.jobs.scripts import run_script
from hessian_spectrum.jobs.settings import SettingsError

SOCKET_TIMEOUT_SECONDS = 2.0
"""Timeout in seconds, short enough for a service to report an unresponsive Redis within 3 s."""

OPEN_SECONDS = 0.5
"""Time for which an open circuit breaker refuses calls."""

_CLOSED = (redis.ConnectionError,)
_TCP_OPTIONS: dict[str, Any] = {"socket_connect_timeout": SOCKET_TIMEOUT_SECONDS, "socket_keepalive": True}

Fault = Literal["away", "full", "disk", "loading", "refusing"]

_WORDS: dict[Fault, str] = {
    "away": "redis does not answer",
    "full": "redis is full: give it more memory (maxmemory), or delete jobs",
    "disk": "redis cannot write to its disk: free space there, and see its log",
    "loading": "redis is reading its data from the disk",
    "refusing": "redis refuses what is asked of it: see the log of the service",
}
_PROBE = "spectrum:probe"
KEEPS_ALL = "noeviction"
"""The only eviction policy with which no job is lost: a full Redis refuses new ones."""


def connect(redis_url: str, *, patient: bool = False) -> redis.Redis:
    """Create a client whose calls return or raise within seconds.

    A call is retried once if its connection was closed, since a pooled connection may lead to a server that has
    restarted. After a timeout, further calls fail at once for half a second, so that requests that queue for a thread
    do not time out one after the other.

    Args:
        redis_url: URL of the server, with user and password.
        patient: Whether calls are retried for about half a minute instead, which outlasts a restart of Redis.

    Returns:
        The client, which connects with its first call.
    """
    retry = Retry(ExponentialBackoff(cap=2.0, base=0.1), 20) if patient else CircuitBreaker()
    return redis.Redis.from_url(redis_url, retry=retry, **_options(redis_url))


def connect_async(redis_url: str) -> redis.asyncio.Redis:
    """Create a client for asyncio; a call is retried once if its connection was closed."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, _CLOSED)
    return redis.asyncio.Redis.from_url(redis_url, retry=retry, **_options(redis_url))


def require_entry(redis_url: str) -> None:
    """Check the credentials of this process, if Redis answers at all.

    Raises:
        SettingsError: Redis refuses the user or the password, or its certificate is not trusted.
    """
    try:
        with connect(redis_url) as client:
            client.ping()
    except redis.AuthenticationError as error:
        raise SettingsError(f"SPECTRUM_REDIS_URL: Redis refuses user or password: {error}") from None
    except redis.RedisError as error:
        if reason := _tls_error(error):
            raise SettingsError(f"SPECTRUM_REDIS_URL: no connection by TLS: {reason}") from None


class CircuitBreaker(Retry):
    """Retries once after a closed connection, and fails fast after a timeout; all connections of a client share it."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 1, _CLOSED)
        self._opened = -OPEN_SECONDS

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def call_with_retry(self, do: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
        """Make a call, which is repeated once if its connection was closed.

        Args:
            do: Makes the call.
            *arguments: Arguments of `Retry.call_with_retry`.
            **options: Keyword arguments of `Retry.call_with_retry`.

        Returns:
            What the call returns.

        Raises:
            redis.TimeoutError: The call timed out, or another one did a moment ago.
        """
        if time.monotonic() - self._opened < OPEN_SECONDS:
            raise redis.TimeoutError("Redis did not answer a moment ago")
        try:
            return super().call_with_retry(do, *arguments, **options)
        except redis.TimeoutError:
            self._opened = time.monotonic()
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
        # The service limits concurrent requests itself; redis-py would refuse the 101st connection.
        "max_connections": 100_000,
        **options,
    }


def broker_url(redis_url: str) -> str:
    """URL of the same server in the form of Celery's transport."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"


def fault_of(error: RedisError | OperationalError) -> Fault:
    """Classify an error that redis-py raised, or that Celery raised because of one."""
    cause = error if isinstance(error, RedisError) else error.__cause__
    text = str(cause)
    if isinstance(cause, redis.exceptions.OutOfMemoryError) or "OOM command not allowed" in text:
        return "full"
    if isinstance(cause, redis.BusyLoadingError):
        return "loading"
    if "MISCONF" in text:
        return "disk"
    if isinstance(cause, redis.ResponseError) and not isinstance(cause, redis.AuthenticationError):
        return "refusing"
    return "away"


def described(error: RedisError | OperationalError) -> str:
    """Describe the fault that an error shows, in words."""
    return _WORDS[fault_of(error)]


def require_writable(client: redis.Redis) -> None:
    """Check that Redis accepts writes, by one that changes nothing: it appends nothing to a key that does not exist.

    Args:
        client: Client of Redis.

    Raises:
        RedisError: Redis does not answer, is full or refuses.
    """
    client.setrange(_PROBE, 0, "")


def eviction_policy(client: redis.Redis) -> str | None:
    """Read which keys Redis deletes when it is full.

    Args:
        client: Client of Redis.

    Returns:
        The value of `maxmemory-policy`; None if this user may not read it.

    Raises:
        RedisError: Redis does not answer.
    """
    try:
        text = run_script(client, "memory_info", [])
    except redis.exceptions.NoPermissionError:
        return None
    policy = re.search(r"^maxmemory_policy:(\S+)", str(text), re.MULTILINE)
    return policy[1] if policy else None


def eviction_fault(client: redis.Redis) -> str | None:
    """Check that Redis deletes no jobs when it is full.

    Args:
        client: Client of Redis.

    Returns:
        What is wrong; None if nothing is, or if this user may not read the policy.

    Raises:
        RedisError: Redis does not answer.
    """
    policy = eviction_policy(client)
    if policy in (None, KEEPS_ALL):
        return None
    return f"redis deletes jobs when it is full (maxmemory-policy {policy}): set maxmemory-policy {KEEPS_ALL}"
