"""Error responses as RFC 9457 problem details."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hessian_spectrum.api_schemas.message import Message

PROBLEM_MEDIA_TYPE = "application/problem+json"


def _encodable(text: Any) -> Any:
    """Replace unpaired surrogates, which names in a file may hold and UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_encodable)]
"""A text of a problem; it may repeat what a caller sent."""


class FieldError(Message):
    """An invalid field of a request, and why it is invalid."""

    loc: list[Text | int] = Field(description="Path to the field, outermost name first.")
    msg: Text = Field(description="Why the value was rejected.")


class Problem(Message):
    """An error in the form of RFC 9457, for people and programs."""

    type: str = Field(default="about:blank", description="URI that identifies the type of problem.")
    alias: str | None = Field(
        default=None,
        description="Second URI of the same type under its standard name, where `type` keeps an older name.",
    )
    title: Text = Field(description="Short summary of the type of problem.")
    status: int = Field(description="HTTP status code of the response.")
    detail: Text | None = Field(default=None, description="What went wrong in this case.")
    instance: Text | None = Field(default=None, description="URI of this occurrence, such as the path of the request.")
    missing: list[Text] | None = Field(
        default=None, description="Everything that a server lacks while it is not ready."
    )
    errors: list[FieldError] | None = Field(default=None, description="Invalid fields of the request, at most 20.")
