"""The cache key of a job: requests with the same key have the same result."""

import hashlib

from hessian_spectrum.api_schemas.jobs import AnyJobRequest

_WITHOUT_EFFECT = {"tags", "shared", "time_limit_seconds"}
"""Fields that say how a job is handled and do not change its result."""


def cache_key(request: AnyJobRequest) -> str:
    """SHA-256 of everything in a request that affects its numbers.

    Workers compute the canonical form of a request, of which this is the digest, so two spellings with one key have one
    result. A named checkpoint enters with its own digest, an uploaded file with its id, which is a digest.
    """
    text = request.canonical().model_dump_json(exclude=_WITHOUT_EFFECT, exclude_none=True)
    return hashlib.sha256(text.encode()).hexdigest()
