"""Which results and records have expired, and which are deleted first when space is short."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.keys import RESULT_USERS, RESULTS, RETENTION_LOCK, index_key
from hessian_spectrum.jobs.scripts import JobScripts, run_script

_LOCK_SECONDS = 300
"""Time after which another process may take the lock, as its holder must have died."""


class Retention:
    """Ages of results and records, counted from the end of a job by the clock of Redis.

    Args:
        client: Client of the Redis that holds the records.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether this process may delete results until the end of the block; two at once would delete too many."""
        token = secrets.token_hex(8)
        is_ours = bool(self._client.set(RETENTION_LOCK, token, nx=True, ex=_LOCK_SECONDS))
        try:
            yield is_ours
        finally:
            if is_ours:
                run_script(self._client, "release_lock", [RETENTION_LOCK], token)

    def jobs_with_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Jobs with a result that ended at least so long ago, oldest first."""
        return self._older(index_key("with-result"), least_age_seconds, number)

    def jobs_without_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Jobs that failed, were cancelled or expired at least so long ago, oldest first."""
        return self._older(index_key("without-result"), least_age_seconds, number)

    def oldest_result(self) -> str | None:
        """Digest of the result whose last job ended first."""
        found = cast("list[str]", self._client.zrange(RESULTS, 0, 0))
        return found[0] if found else None

    def users(self, digest: str) -> list[str]:
        """The jobs that have this result."""
        return sorted(cast("set[str]", self._client.smembers(RESULT_USERS + digest)))

    def expire(self, job_id: str, problem: Problem) -> bool:
        """Take its result from a job, which tells why from now on; False if it had none."""
        return JobScripts(self._client).expire(job_id, problem=problem.model_dump_json(exclude_none=True))

    def _older(self, index: str, age_seconds: float, number: int) -> list[str]:
        seconds, microseconds = self._client.time()
        limit = seconds + microseconds / 1e6 - age_seconds
        return cast("list[str]", self._client.zrangebyscore(index, "-inf", limit, start=0, num=number))
