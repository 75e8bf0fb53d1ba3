"""JSON bodies, parsed in one pass into the message that they must be."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.content_type import require_identity
from service.doors.json_bounds import check_json
from service.problems import ProblemError, invalid_request

M = TypeVar("M", bound=BaseModel)

LARGE_BODY_BYTES = 100_000
"""A larger body takes a third of a millisecond and more to parse; handing it to a thread takes a tenth."""

MOST_ERRORS = 10_000
"""More are not even looked at: a body may hold a million unknown fields, each of them an error of a microsecond."""
_LARGE_BODIES = CapacityLimiter(2)
"""Each takes up to some 600 MB while it is parsed: others wait, without a thread."""


async def json_message(request: Request, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The message in the body of a request.

    Args:  context, what validators of the message look things up in.
    Raises:  RequestValidationError whose locations begin with `body`; ProblemError 415 for a compressed body.
    """
    require_identity(request.headers)
    return await parsed(await request.body(), kind, context)


async def parsed(body: bytes, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The message in a body, parsed in a thread if it is large or what it is looked up in may take its time.

    Raises:  RequestValidationError whose locations begin with `body`; ProblemError 413 or 422.
    """
    validate = partial(_checked, partial(kind.model_validate_json, context=context))
    if len(body) > LARGE_BODY_BYTES:
        return await anyio.to_thread.run_sync(validated, validate, body, limiter=_LARGE_BODIES)
    if context is not None:
        return await run_in_threadpool(validated, validate, body)
    return validated(validate, body)


def _checked(validate: Callable[[bytes], M], body: bytes) -> M:
    check_json(body)
    return validate(body)


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
