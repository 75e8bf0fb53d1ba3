"""The principal of a request, and which jobs it may read or change."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from hessian_spectrum.jobs.record import JobRecord


@dataclass(frozen=True)
class Principal:
    """Whom a request acts for: the bearer of an API key, or anyone where no key is required."""

    owner: str | None
    """Id of the API key, under which jobs and artifacts are stored; None without a key."""
    is_admin: bool
    """Whether every job may be read, cancelled and deleted."""
    max_queued: int | None = None
    """Largest number of queued jobs; None: no limit besides the server's."""
    requests_per_minute: int | None = None
    """Rate limit of the key; None without a key."""

    def may_change(self, record: JobRecord) -> bool:
        """Whether the principal may cancel and delete the job."""
        return self.is_admin or (self.owner is not None and record.owner == self.owner)

    def may_read(self, record: JobRecord) -> bool:
        """Whether the principal may read the job and its result."""
        return record.shared or self.may_change(record)


ANONYMOUS = Principal(owner=None, is_admin=True)
"""The principal of every request to a server that requires no keys."""

UNAUTHENTICATED = Principal(owner=None, is_admin=False)
"""The principal of a request without a valid key to a server that requires one; it sees public paths only."""


async def current_principal(request: Request) -> Principal:
    """The principal that the middleware `Authentication` found.

    Asynchronous because FastAPI runs synchronous dependencies in a thread.
    """
    principal: Principal = request.state.principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
