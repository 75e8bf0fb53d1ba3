"""What the OpenAPI document says of errors."""

from typing import Any

from api_schemas.problem import PROBLEM_MEDIA_TYPE, Problem

Responses = dict[int | str, dict[str, Any]]


def problem_documentation(**descriptions: str) -> Responses:
    """Documented problems: keyword `status_422="when"` for each."""
    return {
        int(name.removeprefix("status_")): {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for name, description in descriptions.items()
    }


INVALID = problem_documentation(
    status_413="the body is too large", status_422="the request is invalid; `errors` names the fields"
)
UNAVAILABLE = problem_documentation(status_503="Redis does not answer")
UNKNOWN = problem_documentation(status_404="no such job")
