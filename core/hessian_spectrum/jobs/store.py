"""The job store: the records of all jobs in Redis and the leases of their workers, each change one script."""

import secrets
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal, cast

import redis

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, JobState, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.creation import CachedResult, JobCreator
from hessian_spectrum.jobs.job_index import JobIndex
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, job_of_message
from hessian_spectrum.jobs.record import (
    JobRecord,
    Lease,
    LeaseLostError,
    holder_prefix,
    record_from_fields,
)
from hessian_spectrum.jobs.scripts import (
    JOB,
    REQUEST,
    UNUSED_RESULTS,
    JobScripts,
    cached_result_prefix,
    index_key,
)
from hessian_spectrum.storage.job_files import RequestFiles

_MAX_LOOKED_AT = 100
"""Number of the oldest queued jobs that are checked for a lost message while other messages wait."""

_NUM_AT_ONCE = 1000
"""Largest number of jobs that one script looks at; Redis answers nobody else meanwhile."""

_SLOW_REPLY_SECONDS = 0.5
"""Seconds after which a reply shows that Redis, and not only this process, was slow."""

WORKERS_LOST = Problem(
    type="/problems/workers-lost",
    title="The job lost its workers",
    status=500,
    detail="In every attempt its worker fell silent: the process was killed, or its machine stopped or was cut off.",
)


class UnknownJobError(Exception):
    """No job has this id."""


class JobStore:
    """The records of all jobs.

    Args:
        client: Client of the Redis that holds the records.
        lease_seconds: Duration of a lease; a worker that does not renew it for so long has lost its job.
        max_attempts: Number of workers that a job may lose.
        requests: Where large requests are stored; None: all are stored in Redis.

    Attributes:
        creator: Writes new jobs.
    """

    def __init__(
        self, client: redis.Redis, *, lease_seconds: float, max_attempts: int, requests: RequestFiles | None = None
    ) -> None:
        self._client = client
        self._requests = requests
        self._scripts = JobScripts(client)
        self.creator = JobCreator(client, self._scripts, requests)
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts

    @cached_property
    def _index(self) -> JobIndex:
        return JobIndex(self._client)

    def cached_results(self, cache_key: str, result_versions: Iterable[str]) -> list[CachedResult]:
        """Results of earlier jobs with this cache key that software of one of these versions computed."""
        keys = [cached_result_prefix(version) + cache_key for version in result_versions]
        digests = cast("list[str | None]", self._client.mget(keys)) if keys else []
        return [CachedResult(key, digest) for key, digest in zip(keys, digests, strict=True) if digest]

    def get(self, job_id: str) -> JobRecord:
        """Read the record of a job.

        Args:
            job_id: Id of the job.

        Returns:
            The record.

        Raises:
            UnknownJobError: There is no such job.
        """
        fields = self._fields(job_id)
        if not fields:
            raise UnknownJobError(job_id)
        return record_from_fields(job_id, fields)

    def request(self, job_id: str) -> str:
        """Read the request of a job that has not ended; it may be far larger than the record.

        Args:
            job_id: Id of the job.

        Returns:
            The request as JSON.

        Raises:
            UnknownJobError: There is no such job, or it has ended.
            RequestDamagedError: The file of the request is missing or damaged.
        """
        request = cast("str | None", self._client.get(REQUEST + job_id))
        if request is not None:
            return request
        sha256 = cast("str | None", self._client.hget(JOB + job_id, "request_sha256"))
        if sha256 is None or self._requests is None:
            raise UnknownJobError(job_id)
        return self._requests.read(job_id, sha256)

    def plan(self, job_id: str) -> str | None:
        """The plan of a job that has not ended, as JSON; None if the record has none."""
        return cast("str | None", self._client.hget(JOB + job_id, "plan"))

    def request_id(self, job_id: str) -> str | None:
        """Id of the HTTP request that brought the job, if there was one."""
        return cast("str | None", self._client.hget(JOB + job_id, "request_id"))

    def page(
        self,
        *,
        state: JobState | None = None,
        tag: tuple[str, str] | None = None,
        owner: str | None = None,
        size: int,
        after: str | None = None,
    ) -> list[JobRecord]:
        """Up to `size` jobs, newest first, older than `after`; with this state, tag and owner where they are given."""
        return self._index.page(state=state, tag=tag, owner=owner, size=size, after=after)

    def index_existing_jobs(self) -> None:
        """Upgrade the indexes of jobs that an earlier version created, once per Redis."""
        self._index.index_existing_jobs()

    def claim(self, job_id: str, holder: str = "") -> Lease | None:
        """Lease a queued job.

        Args:
            job_id: Id of the job.
            holder: Name of the process that computes, by which `mark_worker_lost` finds the lease.

        Returns:
            The lease; None if the job is not queued, as another worker has it or it has ended.
        """
        token = holder_prefix(holder) + secrets.token_hex(16)
        claimed = self._scripts.claim(job_id, token=token, lease_seconds=self._lease_seconds)
        if not claimed.attempt:
            return None
        return Lease(
            job_id,
            token,
            claimed.attempt,
            run_seconds=claimed.run_seconds,
            seconds=self._lease_seconds,
            crashed_by=claimed.crash_signal or None,
        )

    def renew(
        self, lease: Lease, progress: Progress | None, num_products: int = 0, interim_digest: str = ""
    ) -> JobState:
        """Renew the lease, and write what has changed.

        Args:
            lease: Lease of the job.
            progress: Progress of the job.
            num_products: Matrix-vector products since the last call, which are added to those of all jobs.
            interim_digest: Digest of a new interim result, if there is one.

        Returns:
            The state of the job: running or cancelling.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        state = self._scripts.renew(
            lease.job_id,
            token=lease.token,
            lease_seconds=self._lease_seconds,
            progress=progress.model_dump_json() if progress else "",
            num_products=num_products,
            interim_digest=interim_digest,
        )
        return _held(state)

    def succeed(self, lease: Lease, result_digest: str, result_version: str = "") -> JobState:
        """End the job with its result.

        Args:
            lease: Lease of the job.
            result_digest: Digest of the stored result.
            result_version: Version of the software that computed, for which the result enters the cache.

        Returns:
            The final state, which is cancelled if a client cancelled in time.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        prefix = cached_result_prefix(result_version) if result_version else ""
        return self._ended(
            lease,
            self._scripts.succeed(lease.job_id, token=lease.token, result_digest=result_digest, cache_prefix=prefix),
        )

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        """End the job with a problem.

        Args:
            lease: Lease of the job.
            problem: The problem.

        Returns:
            The final state.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        return self._ended(lease, self._scripts.fail(lease.job_id, token=lease.token, problem=_json(problem)))

    def close_cancelled(self, lease: Lease) -> JobState:
        """End a job that was being cancelled.

        Args:
            lease: Lease of the job.

        Returns:
            The final state.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        return self._ended(lease, self._scripts.close_cancelled(lease.job_id, token=lease.token))

    def release_after_error(self, lease: Lease, problem: Problem) -> None:
        """Note why this attempt ends; once the lease runs out, the job is queued again or fails with this problem.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        _held(self._scripts.release_after_error(lease.job_id, token=lease.token, problem=_json(problem)))

    def requeue(self, lease: Lease) -> JobState:
        """Put the job back into the queue because its worker stops.

        Args:
            lease: Lease of the job.

        Returns:
            The state; if the job is queued now, the caller publishes it.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        return _held(self._scripts.requeue(lease.job_id, token=lease.token))

    def mark_worker_lost(
        self,
        job_id: str,
        holder: str,
        *,
        problem: Problem | None = None,
        last_problem: Problem | None = None,
        crash_signal: str | None = None,
    ) -> JobState | None:
        """End the lease of a process that died, or the job, if there is a problem.

        Args:
            job_id: Id of the job.
            holder: Name of the process.
            problem: Problem that the job ends with.
            last_problem: Problem that the job ends with only if it may lose no more workers.
            crash_signal: Name of the signal, if the process itself caused it; later leases carry it.

        Returns:
            The state; None if the process did not hold the lease.
        """
        return self._scripts.mark_worker_lost(
            job_id,
            token_prefix=holder_prefix(holder),
            problem=_json(problem),
            last_problem=_json(last_problem),
            crash_signal=crash_signal or "",
        )

    def cancel(self, job_id: str) -> JobRecord:
        """Cancel a job: a queued one ends now, a running one soon, and one that has ended stays as it is.

        Args:
            job_id: Id of the job.

        Returns:
            The record afterwards.

        Raises:
            UnknownJobError: There is no such job.
        """
        if not self._scripts.cancel(job_id):
            raise UnknownJobError(job_id)
        record = self.get(job_id)
        if record.ended:
            self._discard_request(job_id)
        return record

    def delete(self, job_id: str) -> tuple[bool, str | None]:
        """Delete a job that has ended.

        Args:
            job_id: Id of the job.

        Returns:
            Whether the job had ended, and the digest of a result that no other job has.

        Raises:
            UnknownJobError: There is no such job.
        """
        outcome, digest = self._scripts.delete(job_id)
        if outcome == "missing":
            raise UnknownJobError(job_id)
        if outcome == "deleted":
            self._discard_request(job_id)
        return outcome == "deleted", digest

    def discard_unused_result(self, digest: str) -> None:
        """Note that the files of a result that no job has are deleted; until then, any process may delete them."""
        self._client.srem(UNUSED_RESULTS, digest)

    def recover_lost(self) -> list[str]:
        """Queue or end the jobs whose lease ran out.

        Returns:
            Ids of the jobs that changed.

        Raises:
            redis.TimeoutError: Redis was so slow that it may not have received a renewal.
        """
        started = time.monotonic()
        lapsed = [*self._lapsed("running"), *self._lapsed("cancelling")]
        if time.monotonic() - started > max(_SLOW_REPLY_SECONDS, self._lease_seconds / 2):
            raise redis.TimeoutError(f"an answer took {time.monotonic() - started:.1f} s")
        problem = _json(WORKERS_LOST)
        return [i for i in lapsed if self._scripts.recover(i, max_losses=self._max_attempts, problem=problem)]

    def finished_among(self, job_ids: Iterable[str]) -> list[str]:
        """Select the jobs that have ended."""
        ids = list(job_ids)
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(JOB + job_id, "state")
            states = pipeline.execute()
        return [job_id for job_id, state in zip(ids, states, strict=True) if state in ENDED_STATES]

    def take_unpublished(self, recovered: list[str], republish_seconds: float) -> list[str]:
        """Select queued jobs whose message is missing, which the caller now publishes.

        Messages are taken in order: a job that was published well before the one whose message is taken next has none.
        Only the oldest jobs are looked at; once they have been taken, others are the oldest.

        Args:
            recovered: Ids of jobs that were recovered, and have no message.
            republish_seconds: Time by which a job must have been published before the next one, or before now if no
                message waits.

        Returns:
            Ids of the jobs.
        """
        following = cast("str | None", self._client.lindex(KEY_PREFIX + QUEUE, -1))
        taken = self._scripts.take_unpublished(
            recovered,
            republish_seconds=republish_seconds,
            next_job_key=JOB + job_of_message(following) if following else "",
            max_looked_at=_MAX_LOOKED_AT if following else _NUM_AT_ONCE,
        )
        return sorted(taken)

    def has_queued(self) -> bool:
        """Return whether any job waits for a worker."""
        return bool(self._client.zcard(index_key("queued")))

    def _lapsed(self, state: JobState) -> Iterator[str]:
        start = "-"
        while start:
            ids, last = self._scripts.lapsed_leases(index_key(state), start=start, max_looked_at=_NUM_AT_ONCE)
            yield from ids
            start = last and f"({last}"

    def _discard_request(self, job_id: str) -> None:
        if self._requests is not None:
            self._requests.discard(job_id)

    def _fields(self, job_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(JOB + job_id))

    def _ended(self, lease: Lease, state: JobState | Literal["lost"]) -> JobState:
        final = _held(state)
        self._discard_request(lease.job_id)
        return final


def _held(state: JobState | Literal["lost"]) -> JobState:
    if state == "lost":
        raise LeaseLostError
    return state


def _json(problem: Problem | None) -> str:
    return "" if problem is None else problem.model_dump_json(exclude_none=True)
