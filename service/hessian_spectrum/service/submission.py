"""A request for a job as it is kept: what the server remembers of it, apart from how it was sent."""

from dataclasses import dataclass
from typing import Any, Self

from hessian_spectrum.api_schemas.job_requests import AnyJobRequest
from hessian_spectrum.jobs.cache_key import cache_key


@dataclass(frozen=True)
class Submission:
    """What a job is created from.

    Attributes:
        text: The validated request as JSON, which workers read.
        cache_key: As `jobs.cache_key` computes it.
    """

    kind: str
    text: str
    tags: dict[str, str]
    shared: bool
    cache_key: str

    @classmethod
    def of(cls, request: AnyJobRequest) -> Self:
        """Of a request that was read."""
        text = request.model_dump_json(exclude_none=True)
        return cls(request.kind, text, dict(request.tags), request.shared, cache_key(request))

    @property
    def fields(self) -> dict[str, Any]:
        """All but the text."""
        return {name: value for name, value in vars(self).items() if name != "text"}
