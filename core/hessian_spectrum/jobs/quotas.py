"""How much may be kept of jobs: how many wait, and the bytes of their requests and records."""

from dataclasses import dataclass
from typing import Literal

Kept = Literal["jobs", "requests", "records"]

RECORD_BYTES, TAG_BYTES = 1500, 400
"""What Redis takes for a record beside its tags, and for a tag beside its text, as it is in two indexes."""


@dataclass(frozen=True)
class Quotas:
    """What may be kept before another job is refused; None: any number.

    Attributes:  jobs that wait; requests, bytes of those of jobs that have not ended; records, bytes.
    """

    jobs: int | None = None
    requests: int | None = None
    records: int | None = None


class QuotaError(Exception):
    """As much is kept as may be: of one owner, or of all."""

    def __init__(self, what: Kept, limit: int, *, is_owners: bool) -> None:
        super().__init__(what, limit, is_owners)
        self.what = what
        self.limit = limit
        self.is_owners = is_owners


def sizes(request: str, tags: str, num_tags: int) -> dict[str, str]:
    """Fields of a record that say what the job takes."""
    record_bytes = RECORD_BYTES + len(tags.encode()) + num_tags * TAG_BYTES
    return {"request_bytes": str(len(request.encode())), "record_bytes": str(record_bytes)}
