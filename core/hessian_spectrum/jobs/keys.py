"""Names of the keys in Redis; versions with jobs in flight share them, so they never change."""

import hashlib

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
"""Name of the index of a tag: this, then the first digits of a digest."""

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

COUNTERS = "spectrum:totals"
"""Hash of everything that is counted over all jobs."""

RETENTION_LOCK = "spectrum:retention-turn"
"""Lock of the one process that may delete results."""

IDENTITY = "spectrum:identity"
"""Identity that this Redis shares with its results directory."""

IDENTITY_OFFER = "spectrum:identity-offer"
"""An identity that is being written to a results directory; it becomes that of Redis once the directory holds it."""

EXISTING_JOBS_INDEXED = "spectrum:stock-taken"
"""Set once the jobs of versions without tag indexes and byte counts have been upgraded."""

TAG_DIGITS = 16


def tag_index(name: str, value: str) -> str:
    """Name of the index of the jobs with this tag; rarely, a job with another tag is in it, too."""
    return TAG_INDEX + hashlib.sha1(f"{name}:{value}".encode(), usedforsecurity=False).hexdigest()[:TAG_DIGITS]


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
