"""The record of a job as the message that clients get."""

from hessian_spectrum.api_schemas.jobs import Job, Links
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.service.config import API_PREFIX


def job_message(record: JobRecord, links: Links) -> Job:
    """Return the message for a record.

    Args:
        record: The record.
        links: Addresses of the requests that concern the job.

    Returns:
        The message.
    """
    return Job(
        id=record.id,
        kind=record.kind,
        summary=record.summary,
        state=record.state,
        progress=record.progress,
        attempt=record.attempt,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        error=record.error,
        tags=record.tags,
        owner=record.owner,
        shared=record.shared,
        cached=record.cached,
        interim=record.interim_digest,
        links=links,
    )


def paths(job_id: str) -> Links:
    """Return the addresses of requests that concern a job, without the server's own, which depends on the caller."""
    path = f"{API_PREFIX}/jobs/{job_id}"
    return Links(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel")
