"""Jobs by state, owner and tag, newest first, a page at a time."""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import redis

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs.record import RECORD_BYTES, TAG_BYTES, JobRecord, now_text, record_from_fields
from hessian_spectrum.jobs.scripts import EXISTING_JOBS_INDEXED, JOB, JobScripts, index_key, tag_index

_NUM_AT_ONCE = 1000
"""Number of ids that are read together while the jobs of an earlier version are upgraded."""


class JobIndex:
    """Reads the indexes of jobs that the scripts of `lua/` write.

    Args:
        client: Client of the Redis that holds them.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts = JobScripts(client)
        self._are_existing_jobs_indexed = False

    def page(
        self,
        *,
        state: JobState | None = None,
        tag: tuple[str, str] | None = None,
        owner: str | None = None,
        size: int,
        after: str | None = None,
    ) -> list[JobRecord]:
        """List a page of jobs, newest first.

        Args:
            state: State of the jobs; None: any.
            tag: Name and value of a tag of the jobs; None: any.
            owner: Owner of the jobs; None: any.
            size: Number of jobs at most.
            after: Id of the last job of the previous page.

        Returns:
            Their records.
        """
        if tag is not None:
            self.index_existing_jobs()
        index = (state or "all") if tag is None else tag_index(*tag, state)
        ids = self._newest_first(index_key(index, owner), after, size)
        page: list[JobRecord] = []
        while len(page) < size and (job_ids := list(islice(ids, size - len(page)))):
            records = self._records(job_ids)
            page += [record for record in records if tag is None or record.tags.get(tag[0]) == tag[1]]
        return page

    def index_existing_jobs(self) -> None:
        """Upgrade the jobs that an earlier version created: index their tags and count their bytes, once per Redis."""
        if self._are_existing_jobs_indexed:
            return
        if not self._client.exists(EXISTING_JOBS_INDEXED):
            for job_id in self._newest_first(index_key("all"), None, _NUM_AT_ONCE):
                self._scripts.index_existing(job_id, record_bytes=RECORD_BYTES, tag_bytes=TAG_BYTES)
            self._client.set(EXISTING_JOBS_INDEXED, now_text())
        self._are_existing_jobs_indexed = True

    def _newest_first(self, index: str, after: str | None, chunk: int) -> Iterator[str]:
        start = f"({after}" if after else "+"
        while ids := cast(
            "list[str]", self._client.zrange(index, start, "-", bylex=True, desc=True, offset=0, num=chunk)
        ):
            yield from ids
            start = f"({ids[-1]}"

    def _records(self, job_ids: list[str]) -> list[JobRecord]:
        """Records of the jobs that still exist."""
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(JOB + job_id)
            replies = pipeline.execute()
        return [record_from_fields(job_id, fields) for job_id, fields in zip(job_ids, replies, strict=True) if fields]
