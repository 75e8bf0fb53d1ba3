"""The job store: records in Redis, each change one script."""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import redis

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, JobState, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs import scripts
from hessian_spectrum.jobs.job_index import INDEX, JobIndex, index_key
from hessian_spectrum.jobs.queue import KEY_PREFIX, QUEUE, job_of_message
from hessian_spectrum.jobs.quotas import Kept, QuotaError, Quotas, sizes
from hessian_spectrum.jobs.record import (
    QUEUED,
    JobRecord,
    answered_fields,
    new_job_id,
    new_record_fields,
    now_text,
    record_from_fields,
)
from hessian_spectrum.storage.request_files import LARGE_REQUEST_BYTES, RequestFiles

JOB = scripts.JOB
RESULT_USERS = "spectrum:result-users:"
_KNOWN = "spectrum:idempotency:"
_ANSWERS = "spectrum:answers:"

_MOST_LOOKED_AT = 100
"""Queued jobs whose message may be lost while others wait; ids sort by age."""

_SECONDS_OF_STANDSTILL = 0.5
"""That an answer takes at least where Redis, and not only this process, was slow."""

SECONDS_OF_IDEMPOTENCY = 24 * 3600
"""That a key of a caller is remembered."""

WORKERS_LOST = Problem(
    type="/problems/workers-lost",
    title="The job lost its workers",
    status=500,
    detail="In every attempt its worker fell silent: the process was killed, or its machine stopped or was cut off.",
)


class UnknownJobError(Exception):
    """No job has this id."""


class KeyReusedError(Exception):
    """The idempotency key was sent with another request before."""


class LeaseLostError(Exception):
    """The job was given to another worker, ended or deleted; whoever gets this must stop working on it."""


@dataclass(frozen=True)
class Lease:
    """The right of one worker to write to one job."""

    job_id: str
    token: str
    attempt: int
    run_seconds: float = 0.0  # that earlier attempts took
    seconds: float = float("inf")  # that it lasts, from each renewal
    crashed_by: str | None = None  # signal of which the process of an earlier attempt died, through no one else's doing


@dataclass(frozen=True)
class Answer:
    """A result that answers a question which is asked again."""

    key: str
    result_digest: str


class JobStore:
    """The truth about every job.

    Args:
        client: Of the Redis that holds the records.
        lease_seconds: A worker may be silent.
        max_attempts: Of a job.
        requests: Where large ones go; None: all are kept in Redis.
    """

    def __init__(
        self, client: redis.Redis, lease_seconds: float, max_attempts: int, requests: RequestFiles | None = None
    ) -> None:
        self._client = client
        self._requests = requests
        self._index = JobIndex(client)
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts

    def create(
        self,
        kind: str,
        request: str,
        tags: dict[str, str],
        idempotency_key: str | None = None,
        owner: str | None = None,
        *,
        shared: bool = False,
        question: str = "",
        answer: Answer | None = None,
        request_id: str | None = None,
        quotas: tuple[Quotas, Quotas] = (Quotas(), Quotas()),
    ) -> tuple[JobRecord, bool]:
        """Write a queued job with its validated request as JSON; it is on disk when this returns.

        Args:
            idempotency_key: Of the owner: the job that was created with it before is not created again.
            owner: Whose job it is.
            shared: Whether others may read it.
            question: Digest of what is asked.
            answer: With which the job has succeeded already, unless it is gone meanwhile.
            request_id: Of the request that brought it, for logs.
            quotas: Of the owner and of all.

        Returns:
            The record, and whether it was there before.

        Raises:
            KeyReusedError: If the key stands for another request.
            QuotaError: A quota is exhausted.
            OSError: If a large request cannot be written.
        """
        job_id = new_job_id()
        fields = new_record_fields(kind, tags, owner, shared=shared, request_id=request_id) | {"question": question}
        fields |= sizes(request, fields["tags"], len(tags))
        known = "" if idempotency_key is None else _known_key(idempotency_key, owner)
        written = fields | _answered_fields(answer)
        outcome, found = self._write_new(job_id, request, known, written, quotas)
        if outcome == "gone":
            answer, written = None, fields
            outcome, found = self._write_new(job_id, request, known, written, quotas)
        match outcome:
            case "created":
                state = "succeeded" if answer else "queued"
                return record_from_fields(job_id, written | {"state": state}), False
            case "replayed":
                return self.get(found), True
            case "differs":
                raise KeyReusedError
            case _:
                whose, what = outcome.split("-")
                limit = getattr(quotas[whose == "all"], what)
                raise QuotaError(cast("Kept", what), limit, is_owners=whose == "owner")

    def created_before(self, request: str, idempotency_key: str, owner: str | None = None) -> JobRecord | None:
        """The job that its owner created with this key, if there is one.

        Raises:
            KeyReusedError: If the key stands for another request.
        """
        digest, job_id = cast(
            "list[str | None]", self._client.hmget(_known_key(idempotency_key, owner), "digest", "job")
        )
        fields = self._fields(job_id) if job_id is not None else {}
        if job_id is None or not fields:
            return None
        if digest != _sha256(request):
            raise KeyReusedError
        return record_from_fields(job_id, fields)

    def answers(self, question: str, code_versions: Iterable[str]) -> list[Answer]:
        """Results that code of one of these versions found to the question before."""
        keys = [_answers_key(version) + question for version in code_versions]
        digests = cast("list[str | None]", self._client.mget(keys)) if keys else []
        return [Answer(key, digest) for key, digest in zip(keys, digests, strict=True) if digest]

    def get(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            UnknownJobError: There is no such job.
        """
        fields = self._fields(job_id)
        if not fields:
            raise UnknownJobError(job_id)
        return record_from_fields(job_id, fields)

    def request(self, job_id: str) -> str:
        """The request of a job as JSON, which may be far larger than its record, until the job ends.

        Raises:
            UnknownJobError: Also for a job that ended.
            RequestDamagedError: The file of the request is missing or damaged.
        """
        request = cast("str | None", self._client.get(scripts.REQUESTS + job_id))
        if request is not None:
            return request
        sha256 = cast("str | None", self._client.hget(JOB + job_id, "request_sha256"))
        if sha256 is None or self._requests is None:
            raise UnknownJobError(job_id)
        return self._requests.read(job_id, sha256)

    def request_id(self, job_id: str) -> str | None:
        """Of the request that brought the job, if it had one."""
        return cast("str | None", self._client.hget(JOB + job_id, "request_id"))

    def page(
        self,
        state: JobState | None,
        tag: tuple[str, str] | None,
        size: int,
        after: str | None,
        owner: str | None = None,
    ) -> list[JobRecord]:
        """Up to `size` jobs, newest first, older than `after`; in this state, with this tag, of this owner if given."""
        return self._index.page(state, tag, size, after, owner)

    def take_stock(self) -> None:
        """Index and count the jobs that an earlier version created; once for a Redis."""
        self._index.take_stock()

    def claim(self, job_id: str, holder: str = "") -> Lease | None:
        """Lease a queued job, or None if it is not queued (another worker has it, or it ended).

        Args:
            holder: Name of the process that computes, by which `lose` knows the lease.
        """
        token = holder_prefix(holder) + secrets.token_hex(16)
        attempt, run_seconds, crashed_by = self._run(scripts.CLAIM, job_id, token, self._lease_seconds, now_text())
        if not attempt:
            return None
        return Lease(job_id, token, int(attempt), float(run_seconds), self._lease_seconds, crashed_by or None)

    def renew(self, lease: Lease, progress: Progress | None, num_products: int = 0) -> JobState:
        """Keep the lease, write progress if given, and learn the state (running or cancelling).

        Args:
            num_products: Matrix-vector products computed since the last time, which are added to those of all jobs.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        text = progress.model_dump_json() if progress else ""
        arguments = (lease.token, self._lease_seconds, text, num_products)
        return self._held(self._run(scripts.RENEW, lease.job_id, *arguments))

    def succeed(self, lease: Lease, result_digest: str, code_version: str = "") -> JobState:
        """End the job with its result; returns the final state, cancelled if the caller wished so in time.

        Args:
            code_version: That computed: the same question is answered by this result as long as it is that.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        users, answers = RESULT_USERS + result_digest, _answers_key(code_version) if code_version else ""
        return self._finish(lease, "succeeded", "result_digest", result_digest, users, answers)

    def fail(self, lease: Lease, problem: Problem) -> JobState:
        """End the job with a problem; returns the final state.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        return self._finish(lease, "failed", "error", problem.model_dump_json(exclude_none=True))

    def close_cancelled(self, lease: Lease) -> JobState:
        """End a job that was being cancelled.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        return self._finish(lease, "cancelled", "", "")

    def leave(self, lease: Lease, problem: Problem) -> None:
        """Say why this attempt ends; another begins when the lease has run out, or the job fails with the problem.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        self._held(self._run(scripts.LEAVE, lease.job_id, lease.token, problem.model_dump_json(exclude_none=True)))

    def give_back(self, lease: Lease) -> JobState:
        """Put the job back into the queue, because its worker stops; the caller publishes it if that is its state now.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        arguments = (lease.token, now_text(), QUEUED.model_dump_json())
        return self._held(self._run(scripts.GIVE_BACK, lease.job_id, *arguments))

    def lose(
        self,
        job_id: str,
        holder: str,
        problem: Problem | None,
        last_problem: Problem | None = None,
        crashed_by: str | None = None,
    ) -> JobState | None:
        """Say that the process is gone which held the lease: the job ends with the problem, or its lease is over now.

        Args:
            last_problem: with which the job ends only if it may lose no more workers.
            crashed_by: name of the signal that the process brought upon itself, which later leases tell.

        Returns:
            The state; None if the process did not hold the lease.
        """
        texts = ("" if each is None else each.model_dump_json(exclude_none=True) for each in (problem, last_problem))
        state = self._run(scripts.LOSE, job_id, holder_prefix(holder), now_text(), *texts, crashed_by or "")
        return cast("JobState", state) if state else None

    def cancel(self, job_id: str) -> JobRecord:
        """Ask for the end of a job; a queued one ends now, one that ended stays as it is.

        Raises:
            UnknownJobError: There is no such job.
        """
        if not self._run(scripts.CANCEL, job_id, now_text()):
            raise UnknownJobError(job_id)
        record = self.get(job_id)
        if record.ended:
            self._discard_request(job_id)
        return record

    def delete(self, job_id: str) -> tuple[bool, str | None]:
        """Forget a job that ended: (whether it had ended, digest of a result that no job needs any more).

        Raises:
            UnknownJobError: There is no such job.
        """
        outcome, digest = self._run(
            scripts.DELETE, job_id, RESULT_USERS, scripts.REQUESTS + job_id, scripts.EVENTS + job_id
        )
        if outcome == "missing":
            raise UnknownJobError(job_id)
        if outcome == "deleted":
            self._discard_request(job_id)
        return outcome == "deleted", digest or None

    def removed(self, digest: str) -> None:
        """Note that the files of a result that no job needs are gone; until then others may remove them, too."""
        self._client.srem(scripts.UNWANTED, digest)

    def recover_lost(self) -> list[str]:
        """Put jobs whose worker fell silent back into the queue, or end them; returns the ids that changed.

        Raises:
            redis.TimeoutError: From a Redis that stood still just now, and so may not have heard a worker's sign.
        """
        problem = WORKERS_LOST.model_dump_json(exclude_none=True)
        arguments = (self._max_attempts, now_text(), problem, QUEUED.model_dump_json())
        asked = time.monotonic()
        leased = [*self._ids("running"), *self._ids("cancelling")]
        if time.monotonic() - asked > max(_SECONDS_OF_STANDSTILL, self._lease_seconds / 2):
            raise redis.TimeoutError(f"an answer took {time.monotonic() - asked:.1f} s")
        return [job_id for job_id in leased if self._run(scripts.RECOVER, job_id, *arguments)]

    def ended(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs that are known to have ended."""
        asked = list(job_ids)
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in asked:
                pipeline.hget(JOB + job_id, "state")
            states = pipeline.execute()
        return [job_id for job_id, state in zip(asked, states, strict=True) if state in ENDED_STATES]

    def take_unpublished(self, recovered: list[str], republish_seconds: float) -> list[str]:
        """Queued jobs without a message, which the caller now publishes.

        These are the recovered ones and those published longer ago than this: before now while no message waits, else
        before the one that is next, as messages are taken in turn. Of these only the oldest are looked at.
        """
        following = cast("str | None", self._client.lindex(KEY_PREFIX + QUEUE, -1))
        oldest = [str(i) for i in self._client.zrange(INDEX + "queued", 0, _MOST_LOOKED_AT - 1 if following else -1)]
        key = JOB + job_of_message(following) if following else ""
        return [
            i
            for i in sorted({*recovered, *oldest})
            if int(self._run(scripts.TAKE_UNPUBLISHED, i, republish_seconds, key))
        ]

    def has_queued(self) -> bool:
        """Whether a job waits for a worker."""
        return bool(self._client.zcard(INDEX + "queued"))

    def _ids(self, state: str) -> list[str]:
        return [str(i) for i in self._client.zrange(INDEX + state, 0, -1)]

    def _write_new(
        self, job_id: str, request: str, known: str, fields: Mapping[str, str], quotas: tuple[Quotas, Quotas]
    ) -> tuple[str, str]:
        owner, answer = fields.get("owner"), fields.get("result_digest")
        is_file = answer is None and self._requests is not None and len(request) > LARGE_REQUEST_BYTES
        if is_file:
            fields = {**fields, "request_sha256": _sha256(request)}
        limits = [getattr(each, what) for what in get_args(Kept) for each in quotas]
        arguments = (
            scripts.REQUESTS + job_id,
            "" if is_file else request,
            known,
            _sha256(request),
            SECONDS_OF_IDEMPOTENCY,
            JOB,
            "" if answer is None else RESULT_USERS + answer,
            "" if owner is None else index_key("queued", owner),
            owner or "",
            *("" if limit is None else limit for limit in limits),
            *(text for item in fields.items() for text in item),
        )
        if not is_file or self._requests is None:
            return cast("tuple[str, str]", self._run(scripts.CREATE, job_id, *arguments))
        return self._write_with_file(self._requests, job_id, request, arguments)

    def _write_with_file(
        self, files: RequestFiles, job_id: str, request: str, arguments: tuple[str | float, ...]
    ) -> tuple[str, str]:
        """The file first: whoever sees the record finds it. Where no answer comes the record may be there."""
        files.write(job_id, request)
        outcome, found = self._run(scripts.CREATE, job_id, *arguments)
        if outcome != "created":
            files.discard(job_id)
        elif not files.holds(job_id):  # this process stood still meanwhile, and the file was taken for a forgotten one
            files.write(job_id, request)
        return outcome, found

    def _discard_request(self, job_id: str) -> None:
        if self._requests is not None:
            self._requests.discard(job_id)

    def _fields(self, job_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(JOB + job_id))

    def _finish(
        self, lease: Lease, state: JobState, field: str, value: str, users: str = "", answers: str = ""
    ) -> JobState:
        arguments = (lease.token, state, now_text(), field, value, users, answers)
        final = self._held(self._run(scripts.FINISH, lease.job_id, *arguments))
        self._discard_request(lease.job_id)
        return final

    def _held(self, state: str) -> JobState:
        if state == "lost":
            raise LeaseLostError
        return cast("JobState", state)

    def _run(self, script: str, job_id: str, *arguments: str | float) -> Any:
        return self._client.eval(script, 2, JOB + job_id, INDEX, job_id, *arguments)


def _known_key(idempotency_key: str, owner: str | None) -> str:
    """Two owners may use the same text."""
    return _KNOWN + (f"{owner}:" if owner is not None else "") + _sha256(idempotency_key)


def _answered_fields(answer: Answer | None) -> dict[str, str]:
    """Fields of a job that has its result from the start."""
    return {} if answer is None else answered_fields(answer.result_digest) | {"answers": answer.key}


def _answers_key(code_version: str) -> str:
    return f"{_ANSWERS}{code_version}:"


def holder_prefix(holder: str) -> str:
    """How the tokens of a process begin."""
    return f"{holder}/"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
