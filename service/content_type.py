"""What a body says it is."""

from collections.abc import Mapping

from api_schemas.problem import Problem
from service.problems import ProblemError

JSON = "application/json"


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of the body, lower case and without parameters; empty where the headers name none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported_media_type(*accepted: str) -> ProblemError:
    """Error 415 that says what is accepted."""
    detail = f"Send the body with the header Content-Type: {' or '.join(accepted)}."
    problem = Problem(
        type="/problems/unsupported-media-type", title="Unsupported media type", status=415, detail=detail
    )
    return ProblemError(problem)
