"""Jobs by state, owner and tag, newest first, a page at a time."""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import redis

from hessian_spectrum.api_schemas.jobs import JobState
from hessian_spectrum.jobs import scripts
from hessian_spectrum.jobs.quotas import RECORD_BYTES, TAG_BYTES
from hessian_spectrum.jobs.record import JobRecord, now_text, record_from_fields

INDEX = "spectrum:jobs:"
"""Prefix of the indexes of jobs by state and by tag."""

_STOCK_TAKEN = "spectrum:stock-taken"

_LOOKED_AT = 1000
"""Members of an index in one step, for whose time Redis answers nobody else."""

_TAKE_STOCK = (
    scripts.MOVE
    + f"""
-- ARGV[2]: bytes of a job's record without its tags, ARGV[3]: of a tag beside its text. Of a job that an earlier
-- version created: enters its tags into their indexes, and counts what it takes.
if redis.call('EXISTS', KEYS[1]) == 0 then return end
each_tag(enlist)
if redis.call('HEXISTS', KEYS[1], 'record_bytes') == 1 then return end
local num_tags, tags = 0, redis.call('HGET', KEYS[1], 'tags') or '{{}}'
each_tag(function() num_tags = num_tags + 1 end)
redis.call('HSET', KEYS[1], 'record_bytes', ARGV[2] + #tags + num_tags * ARGV[3])
weigh('records', 'record_bytes', 1)
local request = redis.call('STRLEN', '{scripts.REQUESTS}' .. ARGV[1])
if request > 0 then
  redis.call('HSET', KEYS[1], 'request_bytes', request)
  weigh('requests', 'request_bytes', 1)
end
"""
)

_IN_BOTH = """
-- KEYS[1], KEYS[2]: indexes, ARGV[1]: where to begin, ARGV[2]: how many members to look at, newest first.
-- Returns {those of the first index that are in the second, too, the last one that was looked at or ''}.
local looked = redis.call('ZRANGE', KEYS[1], ARGV[1], '-', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[2])
local found = {}
for _, id in ipairs(looked) do
  if redis.call('ZSCORE', KEYS[2], id) then found[#found + 1] = id end
end
return {found, looked[#looked] or ''}
"""


class JobIndex:
    """Reads the indexes that the scripts of jobs/scripts.py keep.

    Args:
        client: Of the Redis that holds them.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._has_taken_stock = False

    def page(
        self,
        state: JobState | None,
        tag: tuple[str, str] | None,
        size: int,
        after: str | None,
        owner: str | None = None,
    ) -> list[JobRecord]:
        """Up to `size` jobs, newest first, older than `after`; in this state, with this tag, of this owner if given."""
        index = index_key(state or "all", owner)
        ids = self._newest_first(index, after, size)
        if tag is not None:
            self.take_stock()
            tagged = index_key(scripts.tag_index(*tag), owner)
            ids = self._newest_first(tagged, after, size) if state is None else self._in_both(index, tagged, after)
        found: list[JobRecord] = []
        while len(found) < size and (some := list(islice(ids, size - len(found)))):
            records = self._records(some)
            found += [record for record in records if tag is None or record.tags.get(tag[0]) == tag[1]]
        return found

    def take_stock(self) -> None:
        """Index the tags of jobs that an earlier version created, and count what they take; once for a Redis."""
        if self._has_taken_stock:
            return
        if not self._client.exists(_STOCK_TAKEN):
            for job_id in self._newest_first(index_key("all"), None, _LOOKED_AT):
                keys = (scripts.JOB + job_id, INDEX)
                self._client.eval(_TAKE_STOCK, len(keys), *keys, job_id, str(RECORD_BYTES), str(TAG_BYTES))
            self._client.set(_STOCK_TAKEN, now_text())
        self._has_taken_stock = True

    def _newest_first(self, index: str, after: str | None, chunk: int) -> Iterator[str]:
        start = f"({after}" if after else "+"
        while ids := cast(
            "list[str]", self._client.zrange(index, start, "-", bylex=True, desc=True, offset=0, num=chunk)
        ):
            yield from ids
            start = f"({ids[-1]}"

    def _in_both(self, one: str, other: str, after: str | None) -> Iterator[str]:
        """Ids in both indexes, newest first, older than `after`: looked for along the shorter one."""
        shorter, longer = sorted((one, other), key=self._client.zcard)
        start = f"({after}" if after else "+"
        while start:
            arguments = (shorter, longer, start, str(_LOOKED_AT))
            found, last = cast("tuple[list[str], str]", self._client.eval(_IN_BOTH, 2, *arguments))
            yield from found
            start = last and f"({last}"

    def _records(self, job_ids: list[str]) -> list[JobRecord]:
        """Of those that are still there."""
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(scripts.JOB + job_id)
            found = pipeline.execute()
        return [record_from_fields(job_id, fields) for job_id, fields in zip(job_ids, found, strict=True) if fields]


def index_key(name: str, owner: str | None = None) -> str:
    """Key of an index of all jobs, or of an owner's."""
    return INDEX + (f"{owner}:" if owner is not None else "") + name
