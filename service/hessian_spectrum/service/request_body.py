"""Bodies of requests: their media type, the limits of JSON, and the message that a body is."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jiter
from fastapi import Request
from pydantic import BaseModel, ValidationError

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError, invalid_body, invalid_field

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"

LARGE_BODY_BYTES = 100_000
"""Larger bodies take milliseconds to parse, during which the event loop serves nobody: the process pool parses them."""

MAX_VALUES = 2_500_000
"""Numbers, strings, lists and objects in one body; each takes 100 to 160 bytes of memory while it is parsed."""

MAX_MEMBERS = 10_000
"""Members of all objects in one body together; each one that a message does not know costs a kilobyte of errors."""

MAX_COLLECTED_ERRORS = 10_000
"""More validation errors are counted but not read: a body may hold a million unknown fields."""

_VALUE_DELIMITERS = (b",", b"[", b"{")
_DUPLICATE_KEY = "Detected duplicate key"
_MAX_MESSAGE_LENGTH = 200


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of the body, in lower case and without parameters; empty if the headers name none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported_media_type(*accepted: str) -> ProblemError:
    """Error 415 that lists the accepted media types."""
    detail = f"Send the body with the header Content-Type: {' or '.join(accepted)}."
    problem = Problem(
        type="/problems/unsupported-media-type", title="Unsupported media type", status=415, detail=detail
    )
    return ProblemError(problem)


async def require_json(request: Request) -> None:
    """Dependency of routes that take JSON alone; it is asynchronous because FastAPI starts a thread for others.

    Raises:
        ProblemError: 415 for any other media type.
    """
    if media_type(request.headers) != JSON:
        raise unsupported_media_type(JSON)


def require_identity(headers: Mapping[str, str]) -> None:
    """Refuse a body that is compressed as a whole.

    Raises:
        ProblemError: 415.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        problem = Problem(
            type="/problems/unsupported-encoding",
            title="Unsupported content encoding",
            status=415,
            detail="Send the body without Content-Encoding; the members of an npz may be deflated.",
        )
        raise ProblemError(problem)


async def json_body(request: Request) -> bytes:
    """The whole body of a request.

    Raises:
        ProblemError: 415 for a compressed body.
    """
    require_identity(request.headers)
    return await request.body()


def parse_body(body: bytes, kind: type[M], context: Mapping[str, Any] | None = None) -> M:
    """Parse a JSON body into a message in one pass.

    Args:
        body: The text of the JSON document.
        kind: The class of the message.
        context: Where validators of the message look things up.

    Returns:
        The message.

    Raises:
        ProblemError: 413 or 422.
    """

    def parse(text: bytes) -> M:
        check_json(text)
        return kind.model_validate_json(text, context=context)

    return _validated(kind, parse, body)


def validate_document(kind: type[M], document: Any) -> M:
    """The message that a parsed document represents.

    Raises:
        ProblemError: 422.
    """
    return _validated(kind, kind.model_validate, document)


def _validated(kind: type[M], validate: Callable[[Any], M], document: Any) -> M:
    try:
        return validate(document)
    except ValidationError as error:
        num_errors = error.error_count()
        is_collected = num_errors <= MAX_COLLECTED_ERRORS
        errors = error.errors(include_url=False, include_input=False) if is_collected else []
        raise invalid_body(kind, errors, num_errors) from None


def check_json(body: bytes) -> None:
    """Refuse JSON with too many values or with a name twice in one object; a body that is not JSON passes.

    Parsing the message then reports what is not JSON. The parser gives up beyond 200 nested lists or objects.

    Raises:
        ProblemError: 413 for too many values, 422 for too many or duplicate names.
    """
    if len(body) > MAX_VALUES and sum(body.count(delimiter) for delimiter in _VALUE_DELIMITERS) > MAX_VALUES:
        detail = f"A body of JSON holds at most {MAX_VALUES:,} values; send arrays as files."
        raise ProblemError(
            Problem(type="/problems/too-many-values", title="Too many values", status=413, detail=detail)
        )
    try:
        document = jiter.from_json(body, catch_duplicate_keys=True)
    except ValueError as error:
        if str(error).startswith(_DUPLICATE_KEY):
            raise invalid_field((), str(error)[:_MAX_MESSAGE_LENGTH]) from None
        return
    if len(body) > MAX_MEMBERS and _num_members(document) > MAX_MEMBERS:
        raise invalid_field((), f"its objects have more than {MAX_MEMBERS:,} members")


def _num_members(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_num_members(member) for member in value.values())
    if isinstance(value, list):
        return sum(_num_members(part) for part in value if type(part) in (dict, list))
    return 0
