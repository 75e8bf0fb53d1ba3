"""JSON bodies, parsed in one pass into the message that they must be."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.content_type import require_identity
from service.doors.json_bounds import check_json
from service.problems import ProblemError, invalid_request

M = TypeVar("M", bound=BaseModel)

LARGE_BODY_BYTES = 100_000
"""A larger body takes milliseconds to parse, in which nobody else is answered: it is heavy work."""

MOST_ERRORS = 10_000
"""More are not even looked at: a body may hold a million unknown fields, each of them an error of a microsecond."""


async def json_body(request: Request) -> bytes:
    """The body of a request.

    Raises:  ProblemError 415 for a compressed body.
    """
    require_identity(request.headers)
    return await request.body()


def read(body: bytes, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The message in a body.

    Args:  context, what validators of the message look things up in.
    Raises:  RequestValidationError whose locations begin with `body`; ProblemError 413 or 422.
    """

    def checked(text: bytes) -> M:
        check_json(text)
        return kind.model_validate_json(text, context=context)

    return validated(checked, body)


def validated(validate: Callable[[Any], M], document: Any) -> M:
    """What `validate` makes of the document.

    Raises:  RequestValidationError whose locations begin with `body`; ProblemError 422 of very many errors.
    """
    try:
        return validate(document)
    except ValidationError as error:
        if error.error_count() > MOST_ERRORS:
            raise ProblemError(invalid_request([], error.error_count())) from None
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None
