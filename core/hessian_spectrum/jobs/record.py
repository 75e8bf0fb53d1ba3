"""The record of a job: its authoritative state, stored as one Redis hash, and the quotas that records count against."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, JobState, Progress
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.receivers import receiver_of

_TAGS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def new_job_id(index: int = 0) -> str:
    """32 hexadecimal digits: the microsecond of creation, so that ids sort by age, then 64 random bits.

    Args:
        index: Position among jobs that are created together, whose ids are to keep their order.

    Returns:
        The id.
    """
    return f"{time.time_ns() // 1000 + index:016x}{secrets.token_hex(8)}"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as it was last written."""

    id: str
    kind: str
    state: JobState
    tags: dict[str, str]
    progress: Progress
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Problem | None
    result_digest: str | None
    owner: str | None = None  # id of the API key that it was submitted with
    shared: bool = False  # whether every key may read it
    cached: bool = False  # whether its result is that of an earlier job
    summary: str = ""  # what it computes, in a few words
    interim_digest: str | None = None  # of the newest interim result; none once the job has ended
    webhook: str | None = None  # URL of the message about its end; no key but the owner's may see it

    @property
    def ended(self) -> bool:
        """Whether the job has ended, so that only its deletion or expiry can change it."""
        return self.state in ENDED_STATES


class LeaseLostError(Exception):
    """The job was leased to another worker, has ended or was deleted; the worker must stop computing it."""


@dataclass(frozen=True)
class Lease:
    """The exclusive right of one worker to write to one job."""

    job_id: str
    token: str
    attempt: int
    _: KW_ONLY
    run_seconds: float = 0.0  # that earlier attempts ran
    seconds: float = float("inf")  # duration of the lease from each renewal
    crashed_by: str | None = None  # signal by which the process of an earlier attempt died, if it caused that itself


def holder_prefix(holder: str) -> str:
    """Prefix of the tokens of a process."""
    return f"{holder}/"


QUEUED = Progress(phase="queued", done=0, total=0, unit="")
CACHED = Progress(phase="cached", done=0, total=0, unit="")


def new_record_fields(
    kind: str,
    tags: Mapping[str, str],
    owner: str | None = None,
    *,
    shared: bool = False,
    request_id: str | None = None,
    summary: str = "",
    webhook: str | None = None,
) -> dict[str, str]:
    """Hash fields of a job that is being accepted."""
    return {
        **({"webhook": webhook, "receiver": receiver_of(webhook)} if webhook is not None else {}),
        **({"summary": summary} if summary else {}),
        **({"request_id": request_id} if request_id is not None else {}),
        **({"owner": owner} if owner is not None else {}),
        **({"shared": "1"} if shared else {}),
        "kind": kind,
        "tags": _TAGS.dump_json(dict(tags)).decode(),
        "progress": QUEUED.model_dump_json(),
        "attempt": "0",
        "created_at": now_text(),
    }


def cached_fields(*, result_digest: str, cache_entry: str) -> dict[str, str]:
    """Build the further hash fields of a job that has a cached result from the start.

    Args:
        result_digest: Digest of the result.
        cache_entry: Redis key of the cache entry.

    Returns:
        The fields.
    """
    return {
        "cached": "1",
        "answers": cache_entry,
        "result_digest": result_digest,
        "progress": CACHED.model_dump_json(),
        "finished_at": now_text(),
    }


def record_from_fields(job_id: str, fields: Mapping[str, str]) -> JobRecord:
    """The record that a Redis hash holds."""
    error = fields.get("error")
    return JobRecord(
        id=job_id,
        kind=fields["kind"],
        state=fields["state"],  # type: ignore[arg-type]
        tags=_TAGS.validate_json(fields["tags"]),
        progress=Progress.model_validate_json(fields["progress"]),
        attempt=int(fields["attempt"]),
        created_at=datetime.fromisoformat(fields["created_at"]),
        started_at=_time(fields.get("started_at")),
        finished_at=_time(fields.get("finished_at")),
        error=Problem.model_validate_json(error) if error else None,
        result_digest=fields.get("result_digest") or None,
        owner=fields.get("owner"),
        shared="shared" in fields,
        cached="cached" in fields,
        summary=fields.get("summary") or "",
        interim_digest=fields.get("interim_digest"),
        webhook=fields.get("webhook"),
    )


def now_text() -> str:
    """This moment in UTC, as written to records."""
    return datetime.now(UTC).isoformat()


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


QuotaKind = Literal["jobs", "requests", "records"]

RECORD_BYTES, TAG_BYTES = 1500, 800
"""Bytes that Redis takes for a record without tags, and for each tag beside its text because four indexes hold it."""


@dataclass(frozen=True)
class Quotas:
    """Limits on what is stored, above which another job is refused; None means no limit.

    Attributes:
        jobs: Jobs that wait for a worker.
        requests: Bytes of the requests, and plans, of jobs that have not ended.
        records: Bytes of all records.
    """

    jobs: int | None = None
    requests: int | None = None
    records: int | None = None


UNLIMITED = Quotas()


class QuotaError(Exception):
    """A quota is exhausted: that of one owner, or that of all owners together."""

    def __init__(self, what: QuotaKind, limit: int, *, is_owners: bool) -> None:
        super().__init__(what, limit, is_owners)
        self.what = what
        self.limit = limit
        self.is_owners = is_owners


KEPT_REQUEST_BYTES = 8192
"""Size in bytes up to which a request is kept until the record of its job is deleted; longer ones until it ends."""


def sizes(request: str, plan: str, tags: str, num_tags: int, webhook: str = "") -> dict[str, str]:
    """Build the fields of a record that hold the bytes that the job takes.

    Args:
        request: The request.
        plan: The plan, which is stored until the job ends.
        tags: The tags as JSON.
        num_tags: Number of the tags.
        webhook: URL of the message about the end of the job, if there is one.

    Returns:
        The fields.
    """
    num_bytes = len(request.encode())
    is_kept = num_bytes <= KEPT_REQUEST_BYTES
    record_bytes = RECORD_BYTES + len(tags.encode()) + num_tags * TAG_BYTES + (num_bytes if is_kept else 0)
    record_bytes += 2 * len(webhook)  # its receiver is stored, too
    return {
        "request_bytes": str(num_bytes + len(plan.encode())),
        "record_bytes": str(record_bytes),
        **({"keeps_request": "1"} if is_kept else {}),
    }
