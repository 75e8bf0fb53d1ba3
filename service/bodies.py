"""JSON bodies, parsed in one pass into the message that they must be."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.content_type import require_identity
from service.doors.json_bounds import check_json
from service.problems import invalid_body

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
    Raises:  ProblemError 413, 415 for a compressed body, or 422.
    """
    require_identity(request.headers)
    return await parsed(await request.body(), kind, context)


async def parsed(body: bytes, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """The message in a body, parsed in a thread if it is large or what it is looked up in may take its time.

    Raises:  ProblemError 413 or 422.
    """
    validate = partial(_checked, partial(kind.model_validate_json, context=context))
    if len(body) > LARGE_BODY_BYTES:
        return await anyio.to_thread.run_sync(_validated, kind, validate, body, limiter=_LARGE_BODIES)
    if context is not None:
        return await run_in_threadpool(_validated, kind, validate, body)
    return _validated(kind, validate, body)


def validated(kind: type[M], document: Any) -> M:
    """The message that a document is.

    Raises:  ProblemError 422.
    """
    return _validated(kind, kind.model_validate, document)


def _checked(validate: Callable[[bytes], M], body: bytes) -> M:
    check_json(body)
    return validate(body)


def _validated(kind: type[M], validate: Callable[[Any], M], document: Any) -> M:
    try:
        return validate(document)
    except ValidationError as error:
        num_errors = error.error_count()
        errors = error.errors(include_url=False, include_input=False) if num_errors <= MOST_ERRORS else []
        raise invalid_body(kind, errors, num_errors) from None
