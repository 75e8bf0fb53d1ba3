"""What a job asks, apart from who asks, and how it is to be answered: the same question has the same answer."""

import hashlib

from hessian_spectrum.api_schemas.job_requests import AnyJobRequest

_NO_PART = {"tags", "shared", "time_limit_seconds"}
"""Fields that say how a job is treated, and change nothing of its result."""


def question_digest(request: AnyJobRequest) -> str:
    """SHA-256 of the request in its canonical spelling, which is what workers compute.

    So requests of one digest have one result: whatever their spellings differ in, no worker sees it. A named checkpoint
    is in it with its own digest, an uploaded file by its id, which is one.
    """
    return hashlib.sha256(request.canonical().model_dump_json(exclude=_NO_PART, exclude_none=True).encode()).hexdigest()
