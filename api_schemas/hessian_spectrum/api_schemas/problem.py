"""Errors as RFC 9457 problem details."""

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message

PROBLEM_MEDIA_TYPE = "application/problem+json"


class FieldError(Message):
    """One field that is wrong."""

    loc: list[str | int] = Field(description="path to the field")
    msg: str


class Problem(Message):
    """What went wrong, for people and programs."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    missing: list[str] | None = Field(default=None, description="all that a server lacks which is not ready")
    errors: list[FieldError] | None = Field(default=None, description="at most 20, for invalid requests")
