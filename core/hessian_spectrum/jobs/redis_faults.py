"""What is wrong with Redis, in words, and what to do about it."""

import re
from typing import Literal

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from hessian_spectrum.jobs.scripts import run_script

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
"""The only policy that loses no job: a full Redis refuses new ones."""


def fault_of(error: RedisError | OperationalError) -> Fault:
    """Which kind of fault an error shows, Redis' own or one that Celery wraps."""
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
    """The fault in words."""
    return _WORDS[fault_of(error)]


def require_writable(client: redis.Redis) -> None:
    """Make sure that Redis takes writes, by one that changes nothing: it appends nothing to a key that is not there.

    Raises:
        RedisError: if Redis is away, full or refuses.
    """
    client.setrange(_PROBE, 0, "")


def eviction_policy(client: redis.Redis) -> str | None:
    """What Redis deletes where it is full; None if it does not tell this user.

    Raises:
        RedisError: if Redis is away.
    """
    try:
        found = run_script(client, "memory_info", [])
    except redis.exceptions.NoPermissionError:
        return None
    policy = re.search(r"^maxmemory_policy:(\S+)", str(found), re.MULTILINE)
    return policy[1] if policy else None


def eviction_fault(client: redis.Redis) -> str | None:
    """What is wrong if Redis throws jobs away where it is full; None if it does not, or does not tell.

    Raises:
        RedisError: if Redis is away.
    """
    policy = eviction_policy(client)
    if policy in (None, KEEPS_ALL):
        return None
    return f"redis deletes jobs when it is full (maxmemory-policy {policy}): set maxmemory-policy {KEEPS_ALL}"
