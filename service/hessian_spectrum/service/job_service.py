"""The decisions about jobs between the routes and the job store: who may do what, and which results are reused."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from kombu.exceptions import OperationalError
from pydantic_core import from_json, to_json
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.experiments import ExperimentRequest
from hessian_spectrum.api_schemas.experiments.series import TAG
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, JobState
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.creation import CachedResult, JobSpecification
from hessian_spectrum.jobs.fingerprints import cache_key
from hessian_spectrum.jobs.queue import JobQueue
from hessian_spectrum.jobs.record import KEPT_REQUEST_BYTES, JobRecord, Quotas
from hessian_spectrum.jobs.storage_identity import StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore, UnknownJobError
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.job_events import JobEventBroker
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.result_integrity import ResultVerifier
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore

_POLL_SECONDS = 1.0
"""Seconds after which a long poll reads the record without a notification, which may be lost."""

_PAGE_SIZE = 200

NUM_SHARES = 4
"""Number of equal shares into which the bytes reserved for all jobs are divided; one API key may use one of them."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """The validated data from which a job is created.

    Attributes:
        kind: Kind of the job.
        text: The validated request as JSON, which workers read.
        tags: Names that the caller gave the job.
        shared: Whether other keys may read the job.
        cache_key: The digest of everything in the request that affects its numbers.
        summary: What the job computes, in a few words.
        webhook: URL to which a message is sent when the job has ended.
    """

    kind: str
    text: str
    tags: dict[str, str]
    shared: bool
    cache_key: str
    summary: str = ""
    webhook: str | None = None

    @classmethod
    def of(cls, request: AnyJobRequest) -> Self:
        """Return the submission of a validated request."""
        text = request.model_dump_json(exclude_none=True)
        tags = request.all_tags if isinstance(request, ExperimentRequest) else dict(request.tags)
        return cls(request.kind, text, tags, request.shared, cache_key(request), request.summary, request.webhook)

    @property
    def fields(self) -> dict[str, Any]:
        """All fields except the text, by name."""
        return {name: value for name, value in vars(self).items() if name != "text"}


@dataclass(frozen=True)
class SubmittedJob:
    """A job as a caller submits it.

    Attributes:
        submission: The data from which the job is created.
        admit: Returns the job's plan as JSON, or None without a worker to plan for; raises ProblemError or RedisError
            if the job cannot be computed here.
    """

    submission: Submission
    admit: Callable[[], str | None] = field(repr=False)


class JobService:
    """Submits, reads, cancels and deletes jobs for their callers.

    Args:
        store: Records of jobs.
        queue: Messages to workers.
        results: Results.
        storage: Identity of the results directory and of Redis.
        events: Notifies requests that wait for a job.
        code_versions: Returns the versions of the code of the present workers.
        quotas: Most queued jobs, and most bytes of requests and records, of all callers together.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        queue: JobQueue,
        results: ResultStore,
        storage: StorageIdentity,
        events: JobEventBroker,
        code_versions: Callable[[], list[str]],
        quotas: Quotas,
    ) -> None:
        self._store = store
        self._code_versions = code_versions
        self._queue = queue
        self._results = results
        self._storage = storage
        self._events = events
        self._total_quotas = quotas
        self._verifier = ResultVerifier(results)

    def submit(
        self,
        submitted: Sequence[SubmittedJob],
        caller: Principal,
        *,
        idempotency_key: str | None = None,
        fresh: bool = False,
        request_id: str | None = None,
    ) -> tuple[list[JobRecord], bool]:
        """Accept jobs, all of them or none, or find those of the same idempotency key.

        Unless `fresh` is set, a new job takes a stored result of an equal request by the code of a present worker.
        Once the records are written, no job is lost: a message that cannot be sent now is sent later by the reaper.

        Args:
            submitted: The jobs.
            caller: The principal that submits them.
            idempotency_key: Stands for the jobs in repeated requests.
            fresh: Compute the jobs even if their results are stored.
            request_id: The id of the HTTP request, for logs.

        Returns:
            The records in the same order, and whether they existed before.

        Raises:
            KeyReusedError: The idempotency key stands for other requests.
            QuotaError: Too much is stored, of this caller or of all.
            OSError: A request cannot be written.
            ProblemError: As `admit` of a job raises it.
        """
        creator, texts = self._store.creator, [each.submission.text for each in submitted]
        if idempotency_key is not None and (earlier := creator.created_before(texts, idempotency_key, caller.owner)):
            return earlier, True  # admitted jobs are not checked again
        plans = [each.admit() for each in submitted]
        records, replayed = creator.create(
            [self._specification(each.submission, plan, fresh) for each, plan in zip(submitted, plans, strict=True)],
            idempotency_key=idempotency_key,
            owner=caller.owner,
            request_id=request_id,
            owner_quotas=self._owner_quotas(caller),
            total_quotas=self._total_quotas,
        )
        if not replayed:
            self._publish([record.id for record in records if record.state == "queued"])
        return records, replayed

    def _specification(self, submission: Submission, plan: str | None, fresh: bool) -> JobSpecification:
        return JobSpecification(
            submission.kind,
            submission.text,
            tags=submission.tags,
            shared=submission.shared,
            cache_key=submission.cache_key,
            cached_result=None if fresh else self._cached_result(submission.cache_key),
            summary=submission.summary,
            plan=plan,
            webhook=submission.webhook,
        )

    def _publish(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            try:
                self._queue.publish(job_id)
            except OperationalError as error:
                _logger.warning("%s and later jobs are queued; the reaper publishes them: %s", job_id, error)
                return

    def request(self, job_id: str, caller: Principal) -> str:
        """Return the request of a job as JSON, with its defaults; readers of a shared job do not see its webhook.

        Raises:
            UnknownJobError: There is no such job, or the caller may not read it.
            ProblemError: 410 if it was so long that it was kept until the job ended.
        """
        record = self.get(job_id, caller)
        try:
            request = self._store.request(job_id)
            return request if record.webhook is None or caller.may_change(record) else _without_webhook(request)
        except UnknownJobError:
            title = "The request is not kept"
            detail = f"Requests of more than {KEPT_REQUEST_BYTES:,} bytes are kept until their job ends."
            problem = Problem(type="/problems/request-not-kept", title=title, status=410, detail=detail)
            raise ProblemError(problem) from None

    def get(self, job_id: str, caller: Principal) -> JobRecord:
        """Return the record of a job.

        Returns:
            The record as it is stored now.

        Raises:
            UnknownJobError: There is no such job, or the caller may not read it.
        """
        record = self._store.get(job_id)
        if not caller.may_read(record):
            raise UnknownJobError(job_id)
        return record

    async def wait(self, record: JobRecord, seconds: float) -> JobRecord:
        """Return the record once the job has ended, or after this time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self._events.subscribe(record.id) as notification:
            while not record.ended and (left := deadline - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _POLL_SECONDS)):
                        await notification.wait()
                notification.clear()
                record = await run_in_threadpool(self._store.get, record.id)
        return record

    def page(
        self,
        caller: Principal,
        *,
        owner: str | None,
        state: JobState | None,
        tag: tuple[str, str] | None,
        size: int,
        after: str | None,
    ) -> tuple[list[JobRecord], str | None]:
        """Return a page of jobs, newest first.

        Args:
            caller: The principal that lists the jobs.
            owner: Whose jobs to list; None for all that the caller may change.
            state: Only jobs in this state.
            tag: Only jobs with this name and value.
            size: Most jobs of the page.
            after: The id of the last job of the page before.

        Returns:
            The records, and the id after which the next page begins if there is one.

        Raises:
            ProblemError: 403 if the caller may not list the jobs of this owner.
        """
        if not caller.is_admin and owner not in (None, caller.owner):
            raise _forbidden("Only an admin may list the jobs of another key.")
        records = self._store.page(
            state=state, tag=tag, owner=owner if caller.is_admin else caller.owner, size=size + 1, after=after
        )
        more = len(records) > size
        return records[:size], records[size - 1].id if more else None

    def series(self, name: str, caller: Principal) -> list[tuple[str, str]]:
        """Return the jobs of a series that have a result, oldest first.

        Args:
            name: Name of the series.
            caller: The principal that reads it. An admin reads the jobs of whoever has the newest one of this name.

        Returns:
            The id of each job, with the digest of its result.

        Raises:
            ProblemError: 404 if there is none.
        """
        owner = None if caller.is_admin else caller.owner
        found: list[JobRecord] = []
        while page := self._store.page(
            state="succeeded", tag=(TAG, name), owner=owner, size=_PAGE_SIZE, after=found[-1].id if found else None
        ):
            found += page
        found = [each for each in found if each.kind == "series" and each.result_digest]
        if not found:
            title, detail = "No such series", f"No job of a series {name} has a result."
            raise ProblemError(Problem(type="/problems/unknown-series", title=title, status=404, detail=detail))
        newest = found[0]
        return [(each.id, each.result_digest or "") for each in reversed(found) if each.owner == newest.owner]

    def cancel(self, job_id: str, caller: Principal) -> tuple[JobRecord, bool]:
        """Cancel a job.

        Returns:
            The record, and whether the job had ended before.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: 403 if the caller may only read the job.
        """
        had_ended = self._changeable(job_id, caller).ended
        return self._store.cancel(job_id), had_ended

    def delete(self, job_id: str, caller: Principal) -> None:
        """Delete an ended job and its result; files that cannot be removed now are removed later.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: 403 if the caller may only read the job, 409 while it has not ended.
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
    async def result_of(self, job_id: str, caller: Principal, *, interim: bool = False) -> AsyncIterator[str]:
        """Keep track of a result while it is read, as the job may be deleted or expire meanwhile.

        Args:
            job_id: The id of the job.
            caller: The principal that reads the result.
            interim: Whether an interim result will do while the job runs.

        Yields:
            The digest of the result.

        Raises:
            UnknownJobError: There is no such job.
            ProblemError: There is no result yet, or the problem of a failed job.
            ResultDamagedError: A file of the result is missing or damaged, and the job still has it.
        """
        digest = await run_in_threadpool(self._result_digest, job_id, caller, interim)
        try:
            yield digest
        except ResultDamagedError:
            # of a job that runs: another interim result has taken the place of this one
            await run_in_threadpool(self._result_digest, job_id, caller)
            raise

    def _result_digest(self, job_id: str, caller: Principal, interim: bool = False) -> str:
        record = self.get(job_id, caller)
        if record.state == "succeeded" and record.result_digest:
            return record.result_digest
        if interim and record.interim_digest:
            return record.interim_digest
        raise _no_result(record)

    def result(self, digest: str) -> bytes:
        """Return the stored result document.

        Returns:
            The JSON document.

        Raises:
            ResultDamagedError: The file of the result is missing or damaged.
        """
        return self._results.read(digest)

    def arrays(self, digest: str, sha256: str) -> Iterator[bytes]:
        """Read the npz file beside a document.

        Args:
            digest: The digest of the document.
            sha256: The SHA-256 of the npz file.

        Returns:
            The bytes of the file in chunks.

        Raises:
            ResultDamagedError: Before the last chunk if the file is not what was stored.
        """
        return self._results.stream_arrays(digest, sha256)

    def _remove_files(self, digest: str) -> None:
        try:
            self._storage.require()
            self._results.delete(digest)
            self._store.discard_unused_result(digest)
        except (StorageMismatchError, RedisError, OSError) as error:
            _logger.warning("the files of result %s are removed later: %s", digest, error)

    def _owner_quotas(self, caller: Principal) -> Quotas:
        of_all = self._total_quotas
        return Quotas(jobs=caller.max_queued, requests=_share(of_all.requests), records=_share(of_all.records))

    def _cached_result(self, cache_key: str) -> CachedResult | None:
        """Return a stored result of an equal request, all files of which can be read."""
        for cached in self._store.cached_results(cache_key, self._code_versions()):
            try:
                self._verifier.verify(cached.result_digest)
            except (ResultDamagedError, ProblemError, OSError) as error:
                _logger.warning("a stored result cannot be reused: %s", error)
            else:
                return cached
        return None

    def _changeable(self, job_id: str, caller: Principal) -> JobRecord:
        record = self.get(job_id, caller)
        if not caller.may_change(record):
            raise _forbidden("The job is shared for reading: only its owner and admins may cancel or delete it.")
        return record


def _without_webhook(request: str) -> str:
    fields = from_json(request)
    del fields["webhook"]
    return to_json(fields).decode()


def _share(quota: int | None) -> int | None:
    return None if quota is None else quota // NUM_SHARES


def _forbidden(detail: str) -> ProblemError:
    problem = Problem(
        type="/problems/not-yours",
        alias="/problems/forbidden",
        title="Not allowed with this API key",
        status=403,
        detail=detail,
    )
    return ProblemError(problem)


def _no_result(record: JobRecord) -> ProblemError:
    if record.error:  # the job failed or has expired
        return ProblemError(record.error)
    if record.state == "cancelled":
        problem = Problem(type="/problems/job-cancelled", title="The job was cancelled: it has no result", status=409)
        return ProblemError(problem)
    problem = Problem(
        type="/problems/job-not-finished",
        title="The job has not finished",
        status=409,
        detail=f"The job is {record.state}.",
    )
    return ProblemError(problem, {"Retry-After": "1"})
