"""Whether the server is up."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message


class Liveness(Message):
    """The process answers."""

    status: Literal["live"] = "live"


class Version(Message):
    """The release that answers, and the code it runs."""

    version: str = Field(description="Release of the server, as in 1.2.0.")
    code_version: str = Field(
        description="SHA-256 of the sources that service and workers share; workers report the same as source_version."
    )


class WorkerStatus(Message):
    """A worker that reported within the last seconds."""

    name: str
    device: str
    memory_bytes: int
    concurrency: int
    clock_skew_seconds: float | None = Field(default=None, description="of its machine, ahead of Redis")
    source_version: str | None = Field(
        default=None, description="digest of the sources that it shares with the service"
    )
    resident_bytes: int = Field(default=0, description="memory of its processes, what they share counted in each")
    code_version: str | None = Field(
        default=None, description="digest of its code and libraries: results of the same version answer for each other"
    )
    fault: str | None = Field(default=None, description="why the worker takes no jobs at the moment, if it takes none")


class Readiness(Message):
    """Closed forms and jobs are served."""

    status: Literal["ready"] = "ready"
    workers: list[WorkerStatus] = Field(description="empty for callers without a key, where one is needed")
