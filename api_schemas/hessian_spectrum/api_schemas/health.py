"""Liveness and readiness of the server."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message


class Liveness(Message):
    """The service process responds to requests."""

    status: Literal["live"] = "live"


class WorkerStatus(Message):
    """A worker that sent a report within the last few seconds."""

    name: str = Field(description="Name of the worker: its host and process id.")
    device: str = Field(description="Device on which the worker computes, as in `cpu` or `cuda`.")
    memory_bytes: int = Field(description="Memory in bytes that the worker offers to each job.")
    concurrency: int = Field(description="Number of jobs that the worker runs at the same time.")
    num_threads: int | None = Field(
        default=None,
        description="Number of CPU threads with which a job computes; null for a worker of an older release.",
    )
    clock_skew_seconds: float | None = Field(
        default=None, description="Seconds by which the clock of the worker's machine is ahead of the clock of Redis."
    )
    source_version: str | None = Field(
        default=None, description="SHA-256 of the sources that the worker shares with the service."
    )
    resident_bytes: int = Field(
        default=0,
        description="Resident memory of the worker's processes in bytes; shared pages are counted once per process.",
    )
    code_version: str | None = Field(
        default=None,
        description="Digest of the worker's code and libraries: a result computed under the same version is reused "
        "for an equal request.",
    )
    fault: str | None = Field(
        default=None, description="Why the worker takes no jobs at the moment; null if it takes them."
    )


class Readiness(Message):
    """The server accepts closed-form requests and jobs."""

    status: Literal["ready"] = "ready"
    workers: list[WorkerStatus] = Field(
        description="Workers that are online; empty for callers without an API key on a server that requires one."
    )
