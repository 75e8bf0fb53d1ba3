"""What a hostile caller may send, as the corpus lists it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CANARY = "/tmp/spectrum-hostile-canary"
"""A file that code in the corpus would make if anything ran it."""


@dataclass(frozen=True)
class Attack:
    """One request that must be refused.

    Attributes:  body, made when it is sent; statuses, one of which the answer must have.
    """

    name: str
    path: str
    body: Callable[[], bytes] = lambda: b""
    media_type: str | None = "application/json"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (400, 404, 405, 408, 411, 413, 415, 422)
