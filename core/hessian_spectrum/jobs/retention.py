"""Which results and records have had their time: what is kept for how long, and what goes first when space is short."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs import scripts
from hessian_spectrum.jobs.job_index import INDEX
from hessian_spectrum.jobs.store import JOB, RESULT_USERS

_TURN = "spectrum:retention-turn"
_TURN_SECONDS = 300
"""After which another may take it over: whoever had it is gone."""


class Retention:
    """Of all jobs' results; ages count from the end of a job, by the clock of Redis.

    Args:
        client: Of the Redis that holds the records.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether it is this caller's turn to look at what must go: two at once would let go twice as much."""
        token = secrets.token_hex(8)
        mine = bool(self._client.set(_TURN, token, nx=True, ex=_TURN_SECONDS))
        try:
            yield mine
        finally:
            if mine:
                self._client.eval(scripts.END_TURN, 1, _TURN, token)

    def jobs_with_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Those that ended so long ago, oldest first."""
        return self._older(f"{INDEX}with-result", least_age_seconds, number)

    def jobs_without_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Those that failed, were cancelled or have expired so long ago, oldest first."""
        return self._older(f"{INDEX}without-result", least_age_seconds, number)

    def oldest_result(self) -> str | None:
        """Digest of the result whose last job ended first."""
        found = cast("list[str]", self._client.zrange(scripts.RESULTS, 0, 0))
        return found[0] if found else None

    def users(self, digest: str) -> list[str]:
        """The jobs that have this result."""
        return sorted(cast("set[str]", self._client.smembers(RESULT_USERS + digest)))

    def expire(self, job_id: str, problem: Problem) -> bool:
        """Take its result from a job, which tells why from now on; False if it had none."""
        text = problem.model_dump_json(exclude_none=True)
        arguments = (JOB + job_id, INDEX, job_id, RESULT_USERS, text)
        return bool(self._client.eval(scripts.EXPIRE, 2, *arguments))

    def _older(self, index: str, age_seconds: float, number: int) -> list[str]:
        seconds, microseconds = self._client.time()
        limit = seconds + microseconds / 1e6 - age_seconds
        return cast("list[str]", self._client.zrangebyscore(index, "-inf", limit, start=0, num=number))
