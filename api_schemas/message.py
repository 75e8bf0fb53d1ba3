"""What all messages share, and the numeric shapes that several of them carry."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from api_schemas.patterns import PRINTABLE

MAX_NUMBERS = 2_000_000
"""Numbers that one inline array may hold."""


class Message(BaseModel):
    """What the server says: immutable, and tolerant of fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class RequestMessage(BaseModel):
    """What a caller says: immutable, no unknown fields, no coercion of strings to numbers, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def misfit(*location: str | int, message: str) -> ValidationError:
    """Error of one field that does not fit the others, to be raised by a validator of the message around it."""
    kind = PydanticCustomError("misfit", "{message}", {"message": message})
    return ValidationError.from_exception_data("misfit", [InitErrorDetails(type=kind, loc=location, input=None)])


def _array_shape(value: object) -> str:
    return "rows" if isinstance(value, list) and value and isinstance(value[0], list) else "numbers"


def _rectangular(rows: list[list[float]]) -> list[list[float]]:
    width = len(rows[0])
    for index, row in enumerate(rows):
        if len(row) != width:
            raise misfit(index, message=f"row {index} holds {len(row)} numbers, row 0 holds {width}")
    if len(rows) * width > MAX_NUMBERS:
        raise misfit(message=f"{len(rows)} x {width} numbers are more than the {MAX_NUMBERS} that an array may hold")
    return rows


TimeLimit = Annotated[
    float | None,
    Field(
        gt=0,
        description="seconds that workers may spend on the job, over all attempts, before it fails; null: what the "
        "server allows",
    ),
]
Tags = Annotated[
    dict[
        Annotated[str, Field(max_length=64, pattern=PRINTABLE)],
        Annotated[str, Field(max_length=256, pattern=PRINTABLE)],
    ],
    Field(max_length=32),
]
"""A caller's own names for a job, without control characters."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True)]
Rows = Annotated[
    list[Annotated[list[float], Field(min_length=1, fail_fast=True)]],
    Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True),
    AfterValidator(_rectangular),
]
VectorOrRows = Annotated[
    Annotated[Vector, Tag("numbers")] | Annotated[Rows, Tag("rows")],
    Discriminator(_array_shape),
]


def row_width(values: Sequence[float] | Sequence[Sequence[float]]) -> int | None:
    """Numbers per sample: the length of the rows, or None where every sample is one number."""
    first = values[0]
    return len(first) if isinstance(first, Sequence) else None
