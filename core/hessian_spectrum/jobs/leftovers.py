"""What lies on the disk and is needed by no job, as the Redis says that belongs to the results directory."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, cast

import redis
from redis.client import Pipeline

from hessian_spectrum.api_schemas.jobs import ENDED_STATES
from hessian_spectrum.jobs.keys import JOB, RESULT_USERS, UNUSED_RESULTS
from hessian_spectrum.jobs.storage_identity import StorageIdentity

_AT_ONCE = 1000
"""Questions in one transaction, for whose time Redis answers nobody else."""

_MARKED = "spectrum:results-of-no-job"
"""Sorted set of digests by the time at which each was first found to belong to no job."""


class Leftovers:
    """Files that may be deleted.

    Every method raises StorageMismatchError if another Redis than that of the directory would have answered.

    Args:
        storage: the identity of directory and Redis.
    """

    def __init__(self, storage: StorageIdentity) -> None:
        self._storage = storage

    def ended_jobs(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs that ended, or that nobody knows any more."""
        asked = list(job_ids)
        states = self._replies(asked, lambda pipeline, job_id: pipeline.hget(JOB + job_id, "state"))
        return [job_id for job_id, state in zip(asked, states, strict=True) if state is None or state in ENDED_STATES]

    def abandoned_results(self, digests: Iterable[str], seconds: float) -> list[str]:
        """Those that no job has, and of which Redis has known this for so long.

        A Redis that was restored from an older backup does not know the latest results; so there is time to restore a
        better one.
        """
        asked = list(digests)
        found = self._replies(asked, lambda pipeline, digest: pipeline.exists(RESULT_USERS + digest))
        unused = {digest for digest, used in zip(asked, found, strict=True) if not used}
        (now, _), marked = self._storage.replies(_ask_for_marks)
        since = dict(marked)
        self._mark(unused - since.keys(), now, unmark=since.keys() - unused)
        return sorted(digest for digest in unused if now - since.get(digest, now) >= seconds)

    def _mark(self, digests: Collection[str], now: float, unmark: Collection[str]) -> None:
        def ask(pipeline: Pipeline) -> None:
            if digests:
                pipeline.zadd(_MARKED, dict.fromkeys(digests, now))
            if unmark:
                pipeline.zrem(_MARKED, *unmark)

        self._storage.replies(ask)

    def unwanted_results(self) -> list[str]:
        """Digests of results that no job has any more and whose files are still to be removed."""
        [digests] = self._storage.replies(lambda pipeline: pipeline.smembers(UNUSED_RESULTS))
        return sorted(cast("set[str]", digests))

    def _replies(self, asked: list[str], ask: Callable[[Pipeline, str], object]) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(asked), _AT_ONCE):
            part = asked[start : start + _AT_ONCE]
            replies += self._storage.replies(partial(_ask_all, part, ask))
        return replies


def num_known(client: redis.Redis, digests: list[str]) -> int:
    """How many of the results some job has, in whatever Redis this is."""
    parts = (digests[start : start + _AT_ONCE] for start in range(0, len(digests), _AT_ONCE))
    return sum(client.exists(*(RESULT_USERS + digest for digest in part)) for part in parts)


def _ask_for_marks(pipeline: Pipeline) -> None:
    pipeline.time()
    pipeline.zrange(_MARKED, 0, -1, withscores=True)


def _ask_all(part: list[str], ask: Callable[[Pipeline, str], object], pipeline: Pipeline) -> None:
    for each in part:
        ask(pipeline, each)
