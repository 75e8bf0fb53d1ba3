"""Who sent a request, and what of others' jobs is open to them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from hessian_spectrum.jobs.record import JobRecord


@dataclass(frozen=True)
class Caller:
    """The bearer of a key, or anyone where nobody needs one."""

    owner: str | None
    """Id of the key, under which jobs and files are kept."""
    is_admin: bool
    """Whether the jobs of all are theirs to see and to end."""
    max_queued: int | None = None
    """Jobs that may wait at a time; None: no limit of their own."""

    def may_change(self, record: JobRecord) -> bool:
        """Whether the job is theirs to end and to delete."""
        return self.is_admin or (self.owner is not None and record.owner == self.owner)

    def may_read(self, record: JobRecord) -> bool:
        """Whether the job and its result are theirs to see."""
        return record.shared or self.may_change(record)


ANYONE = Caller(owner=None, is_admin=True)
"""Every caller of a server without keys."""

STRANGER = Caller(owner=None, is_admin=False)
"""A caller without a key where one is needed: sees the pages that are open to all."""


async def caller_of(request: Request) -> Caller:
    """Whom the door let in.

    Asynchronous, since FastAPI starts a thread for a dependency that is not.
    """
    caller: Caller = request.state.caller
    return caller


CallerOf = Annotated[Caller, Depends(caller_of)]
