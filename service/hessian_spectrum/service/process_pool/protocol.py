"""Messages between the service and the processes of the pool."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

LENGTHS = "<QQ"
"""Prefix of every message: the lengths of its head, which is JSON, and of its content in bytes."""


@dataclass(frozen=True)
class Reply:
    """The reply of a task: fields that JSON can hold and bytes, or a problem."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | memoryview = b""
    problem: Problem | None = None
    headers: Mapping[str, str] | None = None

    @classmethod
    def from_bytes(cls, head: bytes, content: bytes) -> Self:
        """The reply that these parts of a message hold."""
        document = json.loads(head)
        problem = None if document["problem"] is None else Problem.model_validate(document["problem"])
        return cls(document["fields"], content, problem, document["headers"])

    def head(self) -> bytes:
        """Everything but the content, as JSON."""
        problem = None if self.problem is None else self.problem.model_dump(mode="json", exclude_none=True)
        return json.dumps({"fields": self.fields, "problem": problem, "headers": self.headers}).encode()

    def raise_for_problem(self) -> Self:
        """The reply itself.

        Raises:
            ProblemError: The reply is a problem.
        """
        if self.problem is not None:
            raise ProblemError(self.problem, self.headers)
        return self
