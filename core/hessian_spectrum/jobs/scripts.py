"""The scripts of `lua/` with typed arguments and replies, and the Redis keys that they change.

Redis runs each script entirely or not at all, by its own clock. A line `--- @include "name"` in a script stands for
the file `lua/include/name.lua`. The names of keys and the other constants of `_CONSTANTS` are defined before every
script.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, cast, get_args

import redis

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs.record import QUEUED, QuotaKind, Quotas, now_text

JOB = "spectrum:job:"
"""Prefix of the records, one hash for each job."""

INDEX = "spectrum:jobs:"
"""Prefix of the indexes of jobs by state, owner and tag: sorted sets of ids, all with score 0."""

EVENTS = "spectrum:events:"
"""Prefix of the event streams, one for each job; an event holds every field of the record that clients may see."""

REQUEST = "spectrum:request:"
"""Prefix of the requests that are not stored in a file, each kept until its job ends."""

IDEMPOTENCY = "spectrum:idempotency:"
"""Prefix of the idempotency keys, each a hash of the job and the digest of its request."""

STORED_BYTES = "spectrum:bytes"
"""Hash of stored bytes: `requests` of jobs that have not ended, `records` of all, and `requests:OWNER` and so on."""

TAG_INDEX = "tag:"
"""Name of the index of a tag: this, then the first digits of a digest, then `:STATE` for the jobs in that state."""

CHANGES = "spectrum:changes"
"""Stream of the ids of jobs that changed."""

RESULTS = "spectrum:results"
"""Sorted set of the digests of all results, by the end of the last job that has each."""

RESULT_USERS = "spectrum:result-users:"
"""Prefix of the sets of jobs that have a result."""

CACHED_RESULT = "spectrum:answers:"
"""Prefix of the digests of cached results, by result version and cache key."""

UNUSED_RESULTS = "spectrum:unwanted-results"
"""Set of the digests of results that no job has and whose files may still exist."""

WEBHOOKS = "spectrum:webhooks:"
"""Prefix of the messages about ended jobs, by receiver: sorted sets of ids of jobs by the time of the next attempt."""

COUNTERS = "spectrum:totals"
"""Hash of everything that is counted over all jobs."""

RETENTION_LOCK = "spectrum:retention-turn"
"""Lock of the one process that may delete results."""

IDENTITY = "spectrum:identity"
"""Identity that this Redis shares with its results directory."""

IDENTITY_OFFER = "spectrum:identity-offer"
"""An identity that is being written to a results directory; it becomes that of Redis once the directory holds it."""

EXISTING_JOBS_INDEXED = "spectrum:jobs-indexed"
"""Set once the jobs of versions without indexes by tag and state, or without byte counts, have been upgraded."""

TAG_DIGITS = 16


def tag_index(name: str, value: str, state: JobState | None = None) -> str:
    """Name of the index of the jobs with this tag, in this state; rarely, a job with another tag is in it, too."""
    tag = TAG_INDEX + hashlib.sha1(f"{name}:{value}".encode(), usedforsecurity=False).hexdigest()[:TAG_DIGITS]
    return f"{tag}:{state}" if state else tag


def index_key(name: str, owner: str | None = None) -> str:
    """Key of an index of all jobs, or of those of one owner."""
    return INDEX + (f"{owner}:" if owner is not None else "") + name


def idempotency_key(text: str, owner: str | None) -> str:
    """Redis key of a client's idempotency key; two owners may use the same text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return IDEMPOTENCY + (f"{owner}:" if owner is not None else "") + digest


def cached_result_prefix(result_version: str) -> str:
    """Prefix of the cached results of one version of the software."""
    return f"{CACHED_RESULT}{result_version}:"


DURATION_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
"""Upper bounds of the histograms of durations, in seconds."""

EVENT_SECONDS = 3600
"""Time for which the events of a job are kept after its end."""

IDEMPOTENCY_SECONDS = 24 * 3600
"""Time for which a client's idempotency key is remembered."""

_INCLUDE = re.compile(r'^--- @include "(\w+)"\n', re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n|^\n", re.MULTILINE)

_CONSTANTS: dict[str, str | int | tuple[str, ...]] = {
    "CHANGES": CHANGES,
    "COUNTERS": COUNTERS,
    "EVENTS": EVENTS,
    "JOB": JOB,
    "REQUEST": REQUEST,
    "RESULTS": RESULTS,
    "RESULT_USERS": RESULT_USERS,
    "STORED_BYTES": STORED_BYTES,
    "TAG_INDEX": TAG_INDEX,
    "UNUSED_RESULTS": UNUSED_RESULTS,
    "WEBHOOKS": WEBHOOKS,
    "TAG_DIGITS": TAG_DIGITS,
    "EVENT_SECONDS": EVENT_SECONDS,
    "DURATION_BOUNDS": tuple(f"{bound:g}" for bound in DURATION_BOUNDS),
}


@dataclass(frozen=True)
class Claimed:
    """The information that a worker receives with the lease of a job."""

    attempt: int  # 0: there was no job to claim
    run_seconds: float  # that earlier attempts ran
    crash_signal: str  # by which an earlier attempt died, or empty


@dataclass(frozen=True)
class ShardReply:
    """The reply to a worker that asks for a shard."""

    index: int  # or one of the three below
    attempt: int
    num_free: int  # further shards that nobody computes
    fingerprint: str


NO_SHARD, SHARD_POISONED, NOT_THE_HOLDER = -1, -2, -3
"""Values of `ShardReply.index`: no shard is free; the free one has lost too many workers; another holds the lease."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job that is to be written.

    Attributes:
        id: Id of the job.
        fields: Fields of its record.
        cached: Fields that it has, too, if it succeeds with a cached result; None: there is none.
        request: The request as JSON, or empty where it is stored in a file.
    """

    id: str
    fields: Mapping[str, str]
    cached: Mapping[str, str] | None
    request: str


@dataclass(frozen=True, kw_only=True)
class NewJobs:
    """Jobs that are to be written together, or not at all.

    Attributes:
        jobs: The jobs.
        owner: Id of the API key that they belong to.
        idempotency_key: Redis key of the client's idempotency key, if there is one.
        request_digest: SHA-256 of the requests.
        owner_quotas: Quotas of the owner.
        total_quotas: Quotas of all owners together.
    """

    jobs: Sequence[NewJob]
    owner: str | None
    idempotency_key: str | None
    request_digest: str
    owner_quotas: Quotas
    total_quotas: Quotas


class JobScripts:
    """Scripts that change one job, or read its indexes.

    Each may be sent twice where its reply was lost; the second run then changes nothing.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def create(self, new: NewJobs) -> tuple[str, list[str]]:
        """Write jobs; returns the outcome as `create_jobs.lua` describes it, and states or ids of jobs."""
        common = {
            "idempotency_key": new.idempotency_key or False,
            "request_digest": new.request_digest,
            "idempotency_seconds": IDEMPOTENCY_SECONDS,
            "owner": new.owner or False,
            "limits": {"owner": _limits(new.owner_quotas), "all": _limits(new.total_quotas)},
        }
        arguments = [
            argument
            for job in new.jobs
            for argument in (
                job.id,
                json.dumps(dict(job.fields)),
                "" if job.cached is None else json.dumps(dict(job.cached)),
                job.request,
            )
        ]
        outcome, *others = self._run("create_jobs", new.jobs[0].id, json.dumps(common), *arguments)
        return str(outcome), [str(each) for each in others]

    def claim(self, job_id: str, *, token: str, lease_seconds: float) -> Claimed:
        """Lease a queued job."""
        attempt, run_seconds, crash_signal = self._run("claim_job", job_id, token, lease_seconds, now_text())
        return Claimed(int(attempt), float(run_seconds), str(crash_signal))

    def renew(
        self, job_id: str, *, token: str, lease_seconds: float, progress: str, num_products: int, interim_digest: str
    ) -> JobState | Literal["lost"]:
        """Extend a lease; `progress` is JSON, or empty, as the digest may be."""
        return self._state("renew_lease", job_id, token, lease_seconds, progress, num_products, interim_digest)

    def succeed(self, job_id: str, *, token: str, result_digest: str, cache_prefix: str) -> JobState | Literal["lost"]:
        """End a job with a result, which enters the cache if there is a prefix."""
        users = RESULT_USERS + result_digest
        arguments = ("succeeded", now_text(), "result_digest", result_digest, users, cache_prefix)
        return self._state("finish_job", job_id, token, *arguments)

    def fail(self, job_id: str, *, token: str, problem: str) -> JobState | Literal["lost"]:
        """End a job with a problem, as JSON."""
        return self._state("finish_job", job_id, token, "failed", now_text(), "error", problem, "", "")

    def close_cancelled(self, job_id: str, *, token: str) -> JobState | Literal["lost"]:
        """End a job that is being cancelled."""
        return self._state("finish_job", job_id, token, "cancelled", now_text(), "", "", "", "")

    def requeue(self, job_id: str, *, token: str) -> JobState | Literal["lost"]:
        """Put a job back into the queue."""
        return self._state("requeue_job", job_id, token, now_text(), QUEUED.model_dump_json())

    def release_after_error(self, job_id: str, *, token: str, problem: str) -> JobState | Literal["lost"]:
        """Note why an attempt ends."""
        return self._state("release_after_error", job_id, token, problem)

    def mark_worker_lost(
        self, job_id: str, *, token_prefix: str, problem: str, last_problem: str, crash_signal: str
    ) -> JobState | None:
        """End the lease of a process that died; problems are JSON, or empty. None: it did not hold the lease."""
        arguments = (token_prefix, now_text(), problem, last_problem, crash_signal)
        return cast("JobState", self._run("mark_worker_lost", job_id, *arguments)) or None

    def cancel(self, job_id: str) -> JobState | None:
        """Cancel a job; None: there is no such job."""
        return cast("JobState", self._run("cancel_job", job_id, now_text())) or None

    def recover(self, job_id: str, *, max_losses: int, problem: str) -> JobState | None:
        """Recover a job whose lease ran out; None: nothing had to change."""
        arguments = (max_losses, now_text(), problem, QUEUED.model_dump_json())
        return cast("JobState", self._run("recover_job", job_id, *arguments)) or None

    def take_unpublished(
        self, recovered: Sequence[str], *, republish_seconds: float, next_job_key: str, max_looked_at: int
    ) -> list[str]:
        """Ids of the jobs that the caller must publish: recovered ones, and the oldest if their message is missing."""
        arguments = (republish_seconds, max_looked_at, next_job_key)
        return list(run_script(self._client, "take_unpublished", [index_key("queued")], *arguments, *recovered))

    def lapsed_leases(self, index: str, *, start: str, max_looked_at: int) -> tuple[list[str], str]:
        """Ids in an index from `start` on whose lease ran out, and the last id that was looked at, or empty."""
        ids, last = run_script(self._client, "lapsed_leases", [index], start, max_looked_at)
        return ids, last

    def delete(self, job_id: str) -> tuple[Literal["deleted", "active", "missing"], str | None]:
        """Delete a job that has ended; returns the outcome, and the digest of a result that no other job has."""
        outcome, digest = self._run("delete_job", job_id)
        return outcome, digest or None

    def expire(self, job_id: str, *, problem: str) -> bool:
        """Take the result from a job; False if it had none."""
        return bool(self._run("expire_result", job_id, problem))

    def index_existing(self, job_id: str, *, record_bytes: int, tag_bytes: int) -> None:
        """Upgrade the indexes and byte counts of a job that an earlier version created."""
        self._run("index_existing_job", job_id, record_bytes, tag_bytes)

    def _state(self, name: str, job_id: str, *arguments: str | float) -> JobState | Literal["lost"]:
        return cast("JobState", self._run(name, job_id, *arguments))

    def _run(self, name: str, job_id: str, *arguments: str | float) -> Any:
        return run_script(self._client, name, [JOB + job_id, INDEX], job_id, *arguments)


class ShardScripts:
    """Scripts that change the shards of one job."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def open(
        self,
        job_id: str,
        *,
        token: str,
        num_shards: int,
        shard_fingerprint: str,
        numerics_fingerprint: str,
        max_losses: int,
    ) -> ShardReply:
        """Offer the shards of a job, and claim the first free one."""
        arguments = (num_shards, shard_fingerprint, numerics_fingerprint, max_losses)
        return ShardReply(*self._run("open_shards", job_id, token, *arguments))

    def claim(
        self, job_id: str, *, token: str, lease_seconds: float, max_losses: int, numerics_fingerprint: str
    ) -> ShardReply:
        """Claim a free shard for a worker that does not hold the job."""
        return ShardReply(*self._run("claim_shard", job_id, token, lease_seconds, max_losses, numerics_fingerprint))

    def finish(
        self,
        job_id: str,
        *,
        token: str,
        lease_seconds: float,
        max_losses: int,
        index: int,
        num_products: int,
        wants_another: bool,
    ) -> ShardReply:
        """Note that a shard is done, and claim another if the worker wants one."""
        arguments = (lease_seconds, max_losses, index, num_products, int(wants_another))
        return ShardReply(*self._run("finish_shard", job_id, token, *arguments))

    def renew(self, job_id: str, *, token: str, lease_seconds: float, index: int, num_products: int) -> bool:
        """Extend the time of a shard; False if the worker is to stop."""
        return bool(self._run("renew_shard", job_id, token, lease_seconds, index, num_products))

    def release(self, job_id: str, *, token: str, problem: str) -> None:
        """Release a shard; the problem is JSON, or empty."""
        self._run("release_shard", job_id, token, problem)

    def mark_worker_lost(self, job_id: str, *, token_prefix: str, problem: str, last_problem: str) -> None:
        """End the time of the shards of a process that died; problems are JSON, or empty."""
        self._run("mark_shard_worker_lost", job_id, token_prefix, problem, last_problem)

    def reopen(self, job_id: str, *, token: str, index: int) -> bool:
        """Mark a shard as not done; False if the token is not that of the job's lease."""
        return bool(self._run("reopen_shard", job_id, token, index))

    def _run(self, name: str, job_id: str, token: str, *arguments: str | float) -> Any:
        return run_script(self._client, name, [JOB + job_id], token, *arguments)


def _limits(quotas: Quotas) -> dict[str, int | Literal[False]]:
    """Quotas by name; no limit is false, which Lua tells from numbers."""
    limits = {kind: getattr(quotas, kind) for kind in get_args(QuotaKind)}
    return {kind: False if limit is None else limit for kind, limit in limits.items()}


def run_script(client: redis.Redis, name: str, script_keys: list[str], *arguments: str | float) -> Any:
    """Run the script `lua/<name>.lua`.

    Args:
        client: Client of Redis.
        name: Name of the script.
        script_keys: Its KEYS.
        *arguments: Its ARGV.

    Returns:
        The reply of the script.

    Raises:
        redis.RedisError: Redis does not answer, or refuses.
    """
    return client.eval(script_text(name), len(script_keys), *script_keys, *cast("tuple[str, ...]", arguments))


@cache
def script_text(name: str) -> str:
    """The whole text of a script as Redis gets it: constants, includes, and the file without its comments."""
    directory = resources.files(__package__) / "lua"
    included: set[str] = set()

    def with_includes(text: str) -> Iterator[str]:
        for other in _INCLUDE.findall(text):
            if other not in included:
                included.add(other)
                yield from with_includes((directory / "include" / f"{other}.lua").read_text())
        yield _COMMENT.sub("", text)

    parts = list(with_includes((directory / f"{name}.lua").read_text()))
    return (constants_text() if included else "") + "".join(parts)


def script_names() -> list[str]:
    """Names of all scripts."""
    return sorted(
        path.name.removesuffix(".lua")
        for path in (resources.files(__package__) / "lua").iterdir()
        if path.name.endswith(".lua")
    )


def constants_text() -> str:
    """Lua that defines the constants of scripts."""
    return "".join(f"local {name} = {_literal(value)}\n" for name, value in _CONSTANTS.items())


def _literal(value: str | int | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_literal, value)) + "}"
    return f"'{value}'" if isinstance(value, str) else str(value)
