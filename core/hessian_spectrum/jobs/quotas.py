"""Quotas of stored jobs: how many may wait, and how many bytes their requests and records may take."""

from dataclasses import dataclass
from typing import Literal

Kept = Literal["jobs", "requests", "records"]

RECORD_BYTES, TAG_BYTES = 1500, 400
"""Bytes that Redis takes for a record without its tags, and for a tag beside its text, as two indexes hold it."""


@dataclass(frozen=True)
class Quotas:
    """What may be stored before another job is refused; None: no limit.

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

    def __init__(self, what: Kept, limit: int, *, is_owners: bool) -> None:
        super().__init__(what, limit, is_owners)
        self.what = what
        self.limit = limit
        self.is_owners = is_owners


def sizes(request: str, tags: str, num_tags: int) -> dict[str, str]:
    """Fields of a record that hold the bytes that the job takes.

    Args:
        request: What is stored until the job ends.
        tags: The tags as JSON.
        num_tags: Number of the tags.
    """
    record_bytes = RECORD_BYTES + len(tags.encode()) + num_tags * TAG_BYTES
    return {"request_bytes": str(len(request.encode())), "record_bytes": str(record_bytes)}
