"""What a job asks, apart from who asks, and how it is to be answered: the same question has the same answer."""

import hashlib

from api_schemas.job_requests import AnyJobRequest

_NO_PART = {"tags", "shared", "time_limit_seconds"}
"""Fields that change no number of a result."""


def question_digest(request: AnyJobRequest) -> str:
    """SHA-256 of the validated request with all its defaults.

    A named checkpoint is in it with its own digest, an uploaded file by its id, which is one.
    """
    return hashlib.sha256(request.model_dump_json(exclude=_NO_PART, exclude_none=True).encode()).hexdigest()
