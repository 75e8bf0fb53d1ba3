"""What a JSON body may hold, looked at before it is turned into a message."""

from typing import Any

import jiter

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError, invalid_field

MAX_VALUES = 2_500_000
"""Numbers, texts, lists and objects of one body: 100 to 160 bytes of memory each, while it is parsed."""

MAX_MEMBERS = 10_000
"""Of all objects of one body together: each that a message does not know becomes an error of a kilobyte."""

_MARKS = (b",", b"[", b"{")
_DUPLICATE = "Detected duplicate key"
_MAX_MESSAGE_LENGTH = 200


def check_json(body: bytes) -> None:
    """Let a body pass that is small, and in which no name is given twice; one that is no JSON is told so elsewhere.

    The parser gives up beyond 200 lists or objects in one another.

    Raises:
        ProblemError: 413 for too many values, 422 for too many or doubled names.
    """
    if len(body) > MAX_VALUES and sum(body.count(mark) for mark in _MARKS) > MAX_VALUES:
        detail = f"A body of JSON holds at most {MAX_VALUES:,} values; send arrays as files."
        raise ProblemError(
            Problem(type="/problems/too-many-values", title="Too many values", status=413, detail=detail)
        )
    try:
        document = jiter.from_json(body, catch_duplicate_keys=True)
    except ValueError as error:
        if str(error).startswith(_DUPLICATE):
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
