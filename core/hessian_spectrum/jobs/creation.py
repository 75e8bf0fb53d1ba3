"""Creation of jobs: several together or none, with a cached result where there is one, within quotas."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import cast

import redis

from hessian_spectrum.jobs.record import (
    UNLIMITED,
    JobRecord,
    QuotaError,
    QuotaKind,
    Quotas,
    cached_fields,
    new_job_id,
    new_record_fields,
    record_from_fields,
    sizes,
)
from hessian_spectrum.jobs.scripts import JOB, JobScripts, NewJob, NewJobs
from hessian_spectrum.jobs.scripts import idempotency_key as redis_key_of
from hessian_spectrum.storage.job_files import LARGE_REQUEST_BYTES, RequestFiles


class KeyReusedError(Exception):
    """The idempotency key was sent with other requests before."""


@dataclass(frozen=True)
class CachedResult:
    """A result that a new job may have at once, because an earlier job with the same cache key has it."""

    key: str
    result_digest: str


@dataclass(frozen=True)
class JobSpecification:
    """What a new job is made from.

    Attributes:
        kind: Kind of the job.
        request: Validated request as JSON.
        tags: Tags of the job.
        shared: Whether other keys may read the job.
        cache_key: Cache key of the request.
        cached_result: Result with which the job succeeds at once, unless it has been deleted meanwhile.
        summary: What the job computes, in a few words.
        plan: The job's plan as JSON, which is kept until the job ends.
        webhook: URL to which a message is sent when the job has ended.
    """

    kind: str
    request: str
    _: KW_ONLY
    tags: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    cache_key: str = ""
    cached_result: CachedResult | None = None
    summary: str = ""
    plan: str | None = None
    webhook: str | None = None

    def new_job(self, job_id: str, owner: str | None, request_id: str | None) -> NewJob:
        """Return the job with this id as it is written."""
        fields = new_record_fields(
            self.kind,
            self.tags,
            owner,
            shared=self.shared,
            request_id=request_id,
            summary=self.summary,
            webhook=self.webhook,
        )
        fields |= {"question": self.cache_key} | ({} if self.plan is None else {"plan": self.plan})
        fields |= sizes(self.request, self.plan or "", fields["tags"], len(self.tags), self.webhook or "")
        known = self.cached_result
        cached = None if known is None else cached_fields(result_digest=known.result_digest, cache_entry=known.key)
        return NewJob(id=job_id, fields=fields, cached=cached, request=self.request)


@dataclass(frozen=True)
class JobCreator:
    """Writes new jobs, which are on the disk of Redis when a method returns.

    Args:
        client: Client of the Redis that holds the records.
        scripts: Scripts of the same Redis.
        files: Where large requests are stored; None: all are stored in Redis.
    """

    client: redis.Redis
    scripts: JobScripts
    files: RequestFiles | None

    def create(
        self,
        specifications: Sequence[JobSpecification],
        *,
        idempotency_key: str | None = None,
        owner: str | None = None,
        request_id: str | None = None,
        owner_quotas: Quotas = UNLIMITED,
        total_quotas: Quotas = UNLIMITED,
    ) -> tuple[list[JobRecord], bool]:
        """Write all of the jobs, or none.

        Args:
            specifications: The jobs, at least one.
            idempotency_key: Key of the owner; jobs that were created with it before are not created again.
            owner: Id of the API key that the jobs belong to.
            request_id: Id of the HTTP request that brought them, for logs.
            owner_quotas: Quotas of the owner.
            total_quotas: Quotas of all owners together.

        Returns:
            The records in the same order, and whether they existed before.

        Raises:
            KeyReusedError: The idempotency key belongs to other requests.
            QuotaError: A quota is exhausted.
            OSError: A large request cannot be written.
        """
        jobs = [each.new_job(new_job_id(index), owner, request_id) for index, each in enumerate(specifications)]
        new = NewJobs(
            jobs=[self._without_large_request(job) for job in jobs],
            owner=owner,
            idempotency_key=None if idempotency_key is None else redis_key_of(idempotency_key, owner),
            request_digest=_digest([each.request for each in specifications]),
            owner_quotas=owner_quotas,
            total_quotas=total_quotas,
        )
        outcome, replies = self._written(jobs, new)
        match outcome:
            case "created":
                return [_record(job, state) for job, state in zip(new.jobs, replies, strict=True)], False
            case "replayed":
                return self._existing(replies), True
            case "differs":
                raise KeyReusedError
            case _:
                whose, what = outcome.split("-")
                is_owners = whose == "owner"
                limit = getattr(owner_quotas if is_owners else total_quotas, what)
                raise QuotaError(cast("QuotaKind", what), limit, is_owners=is_owners)

    def created_before(
        self, requests: Sequence[str], idempotency_key: str, owner: str | None = None
    ) -> list[JobRecord] | None:
        """Find the jobs that an owner created with an idempotency key.

        Args:
            requests: The requests as JSON.
            idempotency_key: The key.
            owner: Id of the owner's API key.

        Returns:
            The records of those that still exist; None if there is none.

        Raises:
            KeyReusedError: The key belongs to other requests.
        """
        known = self.client.hmget(redis_key_of(idempotency_key, owner), "digest", "job")
        digest, job_ids = cast("list[str | None]", known)
        records = self._existing((job_ids or "").split())
        if records and digest != _digest(requests):
            raise KeyReusedError
        return records or None

    def _written(self, jobs: Sequence[NewJob], new: NewJobs) -> tuple[str, list[str]]:
        """Write jobs whose large requests go into files.

        The files are written first, so whoever sees a record finds its request. Without a reply, the records may exist.

        Args:
            jobs: The jobs with their requests.
            new: The jobs without requests that go into files.

        Returns:
            The reply of `JobScripts.create`.
        """
        if self.files is None:
            return self.scripts.create(new)
        large = {job.id: job.request for job, other in zip(jobs, new.jobs, strict=True) if job.request != other.request}
        for job_id, request in large.items():
            self.files.write(job_id, request)
        outcome, replies = self.scripts.create(new)
        states = dict(zip((job.id for job in jobs), replies, strict=False)) if outcome == "created" else {}
        for job_id, request in large.items():
            if states.get(job_id) != "queued":
                self.files.discard(job_id)
            elif not self.files.holds(job_id):  # this process was suspended, and the file was deleted as abandoned
                self.files.write(job_id, request)
        return outcome, replies

    def _without_large_request(self, job: NewJob) -> NewJob:
        if self.files is None or len(job.request) <= LARGE_REQUEST_BYTES:
            return job
        fields = {**job.fields, "request_sha256": _sha256(job.request)}
        return NewJob(id=job.id, fields=fields, cached=job.cached, request="")

    def _existing(self, job_ids: Sequence[str]) -> list[JobRecord]:
        with self.client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(JOB + job_id)
            found = pipeline.execute()
        return [record_from_fields(job_id, fields) for job_id, fields in zip(job_ids, found, strict=True) if fields]


def _record(job: NewJob, state: str) -> JobRecord:
    cached = job.cached if state == "succeeded" else None
    return record_from_fields(job.id, {**job.fields, **(cached or {}), "state": state})


def _digest(requests: Sequence[str]) -> str:
    """Return the digest of some requests; that of one request is the SHA-256 of its text."""
    return _sha256(requests[0]) if len(requests) == 1 else _sha256("\n".join(map(_sha256, requests)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
