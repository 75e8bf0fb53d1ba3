"""Bodies are JSON and say so."""

from typing import Annotated

from fastapi import Header

from api_schemas.problem import Problem
from service.problems import ProblemError


def require_json(content_type: Annotated[str, Header()] = "") -> None:
    """Raises:  ProblemError 415 for any other content type."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        detail = "Send the body with the header Content-Type: application/json."
        raise ProblemError(
            Problem(type="/problems/not-json", title="Unsupported media type", status=415, detail=detail)
        )
