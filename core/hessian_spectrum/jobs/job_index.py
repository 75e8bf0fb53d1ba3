"""Jobs by state, owner and tag, newest first, a page at a time."""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import redis

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs.record import RECORD_BYTES, TAG_BYTES, JobRecord, now_text, record_from_fields
from hessian_spectrum.jobs.scripts import EXISTING_JOBS_INDEXED, JOB, JobScripts, index_key, tag_index

_MAX_LOOKED_AT = 1000
"""Largest number of members of an index that one script looks at; Redis answers nobody else meanwhile."""


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
        index = index_key(state or "all", owner)
        ids = self._newest_first(index, after, size)
        if tag is not None:
            self.index_existing_jobs()
            tagged = index_key(tag_index(*tag), owner)
            ids = self._newest_first(tagged, after, size) if state is None else self._in_both(index, tagged, after)
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
            for job_id in self._newest_first(index_key("all"), None, _MAX_LOOKED_AT):
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

    def _in_both(self, one: str, other: str, after: str | None) -> Iterator[str]:
        """Ids in both indexes, newest first and older than `after`; the shorter index is scanned."""
        shorter, longer = sorted((one, other), key=self._client.zcard)
        start = f"({after}" if after else "+"
        while start:
            ids, last = self._scripts.intersect(shorter, longer, start=start, max_looked_at=_MAX_LOOKED_AT)
            yield from ids
            start = last and f"({last}"

    def _records(self, job_ids: list[str]) -> list[JobRecord]:
        """Records of the jobs that still exist."""
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(JOB + job_id)
            replies = pipeline.execute()
        return [record_from_fields(job_id, fields) for job_id, fields in zip(job_ids, replies, strict=True) if fields]
