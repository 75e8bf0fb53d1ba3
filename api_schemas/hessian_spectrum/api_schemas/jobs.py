"""The life of a job as callers see it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.problem import Problem

JobState = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"]
ENDED_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled", "expired"})


class Progress(Message):
    """How far the running phase is."""

    phase: str = Field(
        description="queued, preparing, training, measurements, linearisation, products, eigenvalues or storing; cached"
    )
    done: int
    total: int
    unit: str = Field(description="what done and total count")
    estimated_seconds: float | None = Field(
        default=None,
        description="that this attempt takes in all, predicted from its first products; null: not known yet, or their "
        "number is not",
    )


class Links(Message):
    """Where to go on from a job."""

    self: str
    result: str
    events: str
    cancel: str


class Job(Message):
    """A job's record; times are UTC."""

    id: str
    kind: str
    state: JobState
    progress: Progress
    attempt: int = Field(description="times that a worker took the job")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Problem | None
    tags: dict[str, str]
    owner: str | None = Field(default=None, description="id of the key that submitted it; null: none was needed")
    shared: bool = Field(default=False, description="whether every key may read it")
    cached: bool = Field(
        default=False, description="whether its result was there already: another job had asked the same"
    )
    links: Links


class JobPage(Message):
    """Jobs, newest first."""

    jobs: list[Job]
    next_page_token: str | None = Field(description="null on the last page")
