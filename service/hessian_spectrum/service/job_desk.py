"""What happens to a job when a caller asks: the decisions between the routes and the job store."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.quotas import Quotas
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import CachedResult, JobStore, UnknownJobError
from hessian_spectrum.service.auth.principal import Principal
from hessian_spectrum.service.job_feed import JobFeed
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.submission import Submission
from hessian_spectrum.service.whole_results import WholeResults
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore

_LOOK_AFTER_SECONDS = 1.0
"""Without news, for they may be lost."""

SHARES = 4
"""Into which what is kept of jobs is cut: a key has one of them."""

_logger = logging.getLogger(__name__)


class JobDesk:
    """Takes jobs in, tells how they stand, hands results out."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        results: ResultStore,
        storage: StorageIdentity,
        feed: JobFeed,
        code_versions: Callable[[], list[str]],
        quotas: Quotas,
    ) -> None:
        self._store = store
        self._code_versions = code_versions
        self._queue = queue
        self._results = results
        self._storage = storage
        self._feed = feed
        self._of_all = quotas
        self._whole_results = WholeResults(results)

    def submit(
        self,
        submission: Submission,
        admit: Callable[[], str | None],
        caller: Principal,
        idempotency_key: str | None = None,
        *,
        fresh: bool = False,
        request_id: str | None = None,
    ) -> tuple[JobRecord, bool]:
        """Accept a submission that `admit` plans, or find the job that the caller's idempotency key belongs to.

        Unless the caller wants a fresh result, one that a present worker's code has found to the same question before
        is that of the new job. From the moment that the record is written the job is not lost: a message that cannot be
        sent now is sent by the reaper.

        Returns:
            The record, and whether it was there before.

        Raises:
            KeyReusedError: And what `admit` raises.
            QuotaError: And what `admit` raises.
            OSError: And what `admit` raises.
        """
        key = idempotency_key
        if key is not None and (earlier := self._store.created_before(submission.text, key, caller.owner)):
            return earlier, True  # what was admitted once is not asked about again
        plan = admit()
        record, replayed = self._store.create(
            submission.kind,
            submission.text,
            submission.tags,
            idempotency_key=key,
            owner=caller.owner,
            shared=submission.shared,
            cache_key=submission.cache_key,
            cached_result=None if fresh else self._cached_result(submission.cache_key),
            request_id=request_id,
            plan=plan,
            owner_quotas=self._owner_quotas(caller),
            total_quotas=self._of_all,
        )
        if record.state == "queued" and not replayed:
            try:
                self._queue.publish(record.id)
            except OperationalError as error:
                _logger.warning("job %s waits for the reaper: %s", record.id, error)
        return record, replayed

    def get(self, job_id: str, caller: Principal) -> JobRecord:
        """Raises:  UnknownJobError, also where the job is not the caller's to see."""
        record = self._store.get(job_id)
        if not caller.may_read(record):
            raise UnknownJobError(job_id)
        return record

    async def wait(self, record: JobRecord, seconds: float) -> JobRecord:
        """The record once the job ended, or as it stands after this time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self._feed.bell(record.id) as bell:
            while not record.ended and (left := deadline - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK_AFTER_SECONDS)):
                        await bell.wait()
                bell.clear()
                record = await run_in_threadpool(self._store.get, record.id)
        return record

    def page(
        self,
        caller: Principal,
        owner: str | None,
        state: JobState | None,
        tag: tuple[str, str] | None,
        size: int,
        after: str | None,
    ) -> tuple[list[JobRecord], str | None]:
        """Up to `size` jobs, newest first, and the id after which the next page begins.

        Args:
            owner: Of the jobs; None: all that are the caller's to change.

        Raises:
            ProblemError: 403 if the jobs of this owner are not.
        """
        if not caller.is_admin and owner not in (None, caller.owner):
            raise _not_yours("Only an admin's key lists the jobs of another.")
        records = self._store.page(
            state=state, tag=tag, owner=owner if caller.is_admin else caller.owner, size=size + 1, after=after
        )
        more = len(records) > size
        return records[:size], records[size - 1].id if more else None

    def cancel(self, job_id: str, caller: Principal) -> tuple[JobRecord, bool]:
        """The record, and whether the job had ended before.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: 403 if the caller may read the job alone.
        """
        had_ended = self._changeable(job_id, caller).ended
        return self._store.cancel(job_id), had_ended

    def delete(self, job_id: str, caller: Principal) -> None:
        """Forget an ended job and its result, whose files the housekeeper removes where that cannot be done now.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: 403 if the caller may read the job alone, 409 while it has not ended.
        """
        self._changeable(job_id, caller)
        deleted, digest = self._store.delete(job_id)
        if not deleted:
            raise ProblemError(
                Problem(
                    type="/problems/job-not-ended",
                    title="The job has not ended",
                    status=409,
                    detail="Cancel it first; it can be deleted once it has ended.",
                )
            )
        if digest:
            self._remove_files(digest)

    @asynccontextmanager
    async def result_of(self, job_id: str, caller: Principal) -> AsyncIterator[str]:
        """Digest of the result; files that are found missing may have gone with the job, or its time, just now.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: While there is none, or the job's own problem if it failed.
        """
        digest = await run_in_threadpool(self._result_digest, job_id, caller)
        try:
            yield digest
        except ResultDamagedError:
            await run_in_threadpool(self._result_digest, job_id, caller)
            raise

    def _result_digest(self, job_id: str, caller: Principal) -> str:
        record = self.get(job_id, caller)
        if record.state == "succeeded" and record.result_digest:
            return record.result_digest
        raise _no_result(record)

    def result(self, digest: str) -> bytes:
        """The stored result document.

        Raises:
            ResultDamagedError: The file of the result is missing or damaged.
        """
        return self._results.read(digest)

    def arrays(self, digest: str, sha256: str) -> Iterator[bytes]:
        """The npz file beside a document, in pieces.

        Raises:
            ResultDamagedError: Before the last piece if the file is not what was stored.
        """
        return self._results.stream_arrays(digest, sha256)

    def _remove_files(self, digest: str) -> None:
        try:
            self._storage.require()
            self._results.delete(digest)
            self._store.discard_unused_result(digest)
        except (StorageMismatchError, RedisError, OSError) as error:
            _logger.warning("the files of result %s stay for now: %s", digest, error)

    def _owner_quotas(self, caller: Principal) -> Quotas:
        requests, records = self._of_all.requests, self._of_all.records
        return Quotas(
            jobs=caller.max_queued,
            requests=None if requests is None else requests // SHARES,
            records=None if records is None else records // SHARES,
        )

    def _cached_result(self, cache_key: str) -> CachedResult | None:
        """A cached result whose files are complete."""
        for cached in self._store.cached_results(cache_key, self._code_versions()):
            try:
                self._whole_results.check(cached.result_digest)
            except (ResultDamagedError, ProblemError, OSError) as error:
                _logger.warning("a cached result is not used: %s", error)
            else:
                return cached
        return None

    def _changeable(self, job_id: str, caller: Principal) -> JobRecord:
        record = self.get(job_id, caller)
        if not caller.may_change(record):
            raise _not_yours("The job is shared: its owner and admins end and delete it, all others read it.")
        return record


def _not_yours(detail: str) -> ProblemError:
    return ProblemError(Problem(type="/problems/not-yours", title="Not with this key", status=403, detail=detail))


def _no_result(record: JobRecord) -> ProblemError:
    if record.error:  # of a job that failed or has expired
        return ProblemError(record.error)
    if record.state == "cancelled":
        problem = Problem(type="/problems/job-cancelled", title="The job was cancelled: it has no result", status=409)
        return ProblemError(problem)
    problem = Problem(
        type="/problems/job-not-finished",
        title="The job has not finished",
        status=409,
        detail=f"It is {record.state}.",
    )
    return ProblemError(problem, {"Retry-After": "1"})
