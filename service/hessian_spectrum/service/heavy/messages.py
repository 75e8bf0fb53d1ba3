"""What a process that does heavy work answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

LENGTHS = "<QQ"
"""Before every message: bytes of its head, which is JSON, and of its content."""


@dataclass(frozen=True)
class Reply:
    """Fields that JSON can hold, and bytes; or a problem."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | memoryview = b""
    problem: Problem | None = None
    headers: Mapping[str, str] | None = None

    @classmethod
    def from_bytes(cls, head: bytes, content: bytes) -> Self:
        """As `head` says it."""
        found = json.loads(head)
        problem = None if found["problem"] is None else Problem.model_validate(found["problem"])
        return cls(found["fields"], content, problem, found["headers"])

    def head(self) -> bytes:
        """All but the content."""
        problem = None if self.problem is None else self.problem.model_dump(mode="json", exclude_none=True)
        return json.dumps({"fields": self.fields, "problem": problem, "headers": self.headers}).encode()

    def checked(self) -> Self:
        """Raises:  ProblemError if it is one."""
        if self.problem is not None:
            raise ProblemError(self.problem, self.headers)
        return self
