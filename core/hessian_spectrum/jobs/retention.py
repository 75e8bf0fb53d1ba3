"""Selection of what may be deleted: results and records that have expired, and files that no job needs."""

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import redis
from redis.client import Pipeline

from hessian_spectrum.api_schemas.jobs import ENDED_STATES
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.scripts import (
    JOB,
    RESULT_USERS,
    RESULTS,
    RETENTION_LOCK,
    UNUSED_RESULTS,
    JobScripts,
    index_key,
    run_script,
)
from hessian_spectrum.jobs.storage_identity import StorageIdentity

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
        """Yield whether this process alone may delete results until the end of the block; two would delete too many."""
        token = secrets.token_hex(8)
        is_ours = bool(self._client.set(RETENTION_LOCK, token, nx=True, ex=_LOCK_SECONDS))
        try:
            yield is_ours
        finally:
            if is_ours:
                run_script(self._client, "release_lock", [RETENTION_LOCK], token)

    def jobs_with_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Jobs with a result that ended at least this many seconds ago, oldest first."""
        return self._older(index_key("with-result"), least_age_seconds, number)

    def jobs_without_result(self, least_age_seconds: float, number: int) -> list[str]:
        """Jobs that failed, were cancelled or expired at least this many seconds ago, oldest first."""
        return self._older(index_key("without-result"), least_age_seconds, number)

    def oldest_result(self) -> str | None:
        """Digest of the result whose last job ended first."""
        digests = cast("list[str]", self._client.zrange(RESULTS, 0, 0))
        return digests[0] if digests else None

    def users(self, digest: str) -> list[str]:
        """The jobs that have this result."""
        return sorted(cast("set[str]", self._client.smembers(RESULT_USERS + digest)))

    def expire(self, job_id: str, problem: Problem) -> bool:
        """Remove the result from a job, which states the reason from then on; False if it had none."""
        return JobScripts(self._client).expire(job_id, problem=problem.model_dump_json(exclude_none=True))

    def _older(self, index: str, age_seconds: float, number: int) -> list[str]:
        seconds, microseconds = self._client.time()
        limit = seconds + microseconds / 1e6 - age_seconds
        return cast("list[str]", self._client.zrangebyscore(index, "-inf", limit, start=0, num=number))


_AT_ONCE = 1000
"""Largest number of queries in one transaction, during which Redis answers nobody else."""

_RESULTS_OF_NO_JOB, _REQUESTS_OF_NO_JOB = "spectrum:results-of-no-job", "spectrum:requests-of-no-job"
"""Sorted sets of digests, and of ids of jobs, by the time at which each file was first found to belong to no job."""


class Leftovers:
    """Files that may be deleted.

    Every method raises StorageMismatchError if Redis does not belong to the results directory.

    Args:
        storage: The identity of directory and Redis.
    """

    def __init__(self, storage: StorageIdentity) -> None:
        self._storage = storage

    def ended_jobs(self, job_ids: Iterable[str]) -> list[str]:
        """Select the jobs that have ended or no longer exist."""
        ids = list(job_ids)
        states = self._replies(ids, lambda pipeline, job_id: pipeline.hget(JOB + job_id, "state"))
        return [job_id for job_id, state in zip(ids, states, strict=True) if state is None or state in ENDED_STATES]

    def abandoned_results(self, digests: Iterable[str], seconds: float) -> list[str]:
        """List results that belong to no job.

        A Redis that was restored from an older backup does not know the latest results; the delay leaves time to
        restore a better one.

        Args:
            digests: Digests of results.
            seconds: Time for which it has to have been known that a result belongs to no job.

        Returns:
            Those of the digests, sorted.
        """
        return self._abandoned(digests, seconds, marks=_RESULTS_OF_NO_JOB, prefix=RESULT_USERS)

    def abandoned_requests(self, job_ids: Iterable[str], seconds: float) -> list[str]:
        """List jobs that have not existed for so many seconds; the delay is explained in `abandoned_results`."""
        return self._abandoned(job_ids, seconds, marks=_REQUESTS_OF_NO_JOB, prefix=JOB)

    def _abandoned(self, names: Iterable[str], seconds: float, *, marks: str, prefix: str) -> list[str]:
        """List the names for which no key with this prefix has existed for so many seconds."""
        all_names = list(names)
        replies = self._replies(all_names, lambda pipeline, name: pipeline.exists(prefix + name))
        unused = {name for name, used in zip(all_names, replies, strict=True) if not used}
        (now, _), marked = self._storage.replies(partial(_ask_for_marks, marks))
        since = dict(marked)
        self._mark(marks, unused - since.keys(), now=now, unmark=since.keys() - unused)
        return sorted(name for name in unused if now - since.get(name, now) >= seconds)

    def _mark(self, marks: str, names: Collection[str], *, now: float, unmark: Collection[str]) -> None:
        def ask(pipeline: Pipeline) -> None:
            if names:
                pipeline.zadd(marks, dict.fromkeys(names, now))
            if unmark:
                pipeline.zrem(marks, *unmark)

        if names or unmark:
            self._storage.replies(ask)

    def unwanted_results(self) -> list[str]:
        """Digests of results that no job has any more and whose files are still to be deleted."""
        [digests] = self._storage.replies(lambda pipeline: pipeline.smembers(UNUSED_RESULTS))
        return sorted(cast("set[str]", digests))

    def _replies(self, names: list[str], ask: Callable[[Pipeline, str], object]) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            replies += self._storage.replies(partial(_ask_all, part, ask))
        return replies


def num_known(client: redis.Redis, digests: list[str]) -> int:
    """Number of these results that some job has, according to this Redis."""
    parts = (digests[start : start + _AT_ONCE] for start in range(0, len(digests), _AT_ONCE))
    return sum(client.exists(*(RESULT_USERS + digest for digest in part)) for part in parts)


def _ask_for_marks(marks: str, pipeline: Pipeline) -> None:
    pipeline.time()
    pipeline.zrange(marks, 0, -1, withscores=True)


def _ask_all(part: list[str], ask: Callable[[Pipeline, str], object], pipeline: Pipeline) -> None:
    for each in part:
        ask(pipeline, each)
