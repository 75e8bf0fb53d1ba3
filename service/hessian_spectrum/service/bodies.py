"""JSON bodies, parsed in one pass into the message that they must be."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hessian_spectrum.service.content_type import require_identity
from hessian_spectrum.service.json_limits import check_json
from hessian_spectrum.service.problems import invalid_body

M = TypeVar("M", bound=BaseModel)

LARGE_BODY_BYTES = 100_000
"""A larger body takes milliseconds to parse, in which nobody else is answered: it is heavy work."""

MOST_ERRORS = 10_000
"""More are not even looked at: a body may hold a million unknown fields, each of them an error of a microsecond."""


async def json_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        ProblemError: 415 for a compressed body.
    """
    require_identity(request.headers)
    return await request.body()


def read(body: bytes, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The message in a body.

    Args:
        context: What validators of the message look things up in.

    Raises:
        ProblemError: 413 or 422.
    """

    def checked(text: bytes) -> M:
        check_json(text)
        return kind.model_validate_json(text, context=context)

    return _validated(kind, checked, body)


def validated(kind: type[M], document: Any) -> M:
    """The message that a document is.

    Raises:
        ProblemError: 422.
    """
    return _validated(kind, kind.model_validate, document)


def _validated(kind: type[M], validate: Callable[[Any], M], document: Any) -> M:
    try:
        return validate(document)
    except ValidationError as error:
        num_errors = error.error_count()
        errors = error.errors(include_url=False, include_input=False) if num_errors <= MOST_ERRORS else []
        raise invalid_body(kind, errors, num_errors) from None
