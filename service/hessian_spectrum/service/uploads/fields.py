"""The names under which an upload carries the fields of a request, and the request that they make up."""

from collections.abc import Iterable
from typing import Any

from hessian_spectrum.api_schemas.closed_form import FIELD_PATHS
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError, invalid_field
from hessian_spectrum.service.validation_errors import unknown_name

MAX_FIELDS = 32
"""More than any request has."""

_DOTTED_PATHS = {".".join(path): path for path in FIELD_PATHS.values()}
_MAX_NAME_LENGTH = 64


def field_path(name: str) -> tuple[str, ...]:
    """Where a field stands in the request: `w` and `model.w` are the same one.

    Raises:
        ProblemError: 422 if there is none of this name.
    """
    path = FIELD_PATHS.get(name) or _DOTTED_PATHS.get(name)
    if path is None:
        raise invalid_field((name[:_MAX_NAME_LENGTH],), unknown_name("field", name, FIELD_PATHS))
    return path


def request_document(fields: Iterable[tuple[tuple[str, ...], Any]], start: Any = None) -> dict[str, Any]:
    """The fields nested by their paths, on top of `start` where a part of the request came as JSON.

    Raises:
        ProblemError: 422 if a field is given twice.
    """
    document = _copied(start)
    for path, value in fields:
        *parents, name = path
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        if not isinstance(place, dict) or name in place:
            raise invalid_field(path, "is given twice")
        place[name] = value
    return document


def _copied(start: Any) -> dict[str, Any]:
    if start is None:
        return {}
    if not isinstance(start, dict):
        raise invalid_field(("request",), "must be a JSON object")
    return {name: dict(value) if isinstance(value, dict) else value for name, value in start.items()}


def malformed_upload(detail: str) -> ProblemError:
    """Error 400 of an upload whose parts cannot be told apart."""
    problem = Problem(type="/problems/malformed-upload", title="Malformed upload", status=400, detail=detail)
    return ProblemError(problem)
