"""What all messages share, and the numeric shapes that several of them carry."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    ValidationError,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from hessian_spectrum.api_schemas.patterns import PRINTABLE

MAX_NUMBERS = 2_000_000
"""Numbers that one inline array may hold."""

MAX_EXACT_INTEGER = 2**53
"""Up to here a floating-point number stands for one integer."""


class Message(BaseModel):
    """What the server says: immutable, and tolerant of fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER else value


def _whole_choice(value: Any) -> Any:
    """The same before a literal, in whose eyes true is 1."""
    return None if isinstance(value, bool) else _whole_number(value)


_NO_SCHEMAS = {"config", "default", "expected", "metadata", "serialization"}
"""What a core schema holds beside schemas that could contain an integer's."""


def _with_whole_numbers(schema: Any) -> Any:
    """A core schema that takes 20.0 where it took 20."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_with_whole_numbers, schema))
    if not isinstance(schema, dict) or _is_done(schema):
        return schema
    if schema.get("type") == "int":
        return core_schema.no_info_before_validator_function(_whole_number, cast("CoreSchema", schema))
    if schema.get("type") == "literal" and all(type(value) is int for value in schema["expected"]):
        return core_schema.no_info_before_validator_function(_whole_choice, cast("CoreSchema", schema))
    return {key: part if key in _NO_SCHEMAS else _with_whole_numbers(part) for key, part in schema.items()}


def _is_done(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "function-before" and schema["function"]["function"] in (_whole_number, _whole_choice)


class RequestMessage(BaseModel):
    """What a caller says: immutable, no unknown fields, no coercion of strings to numbers, no NaN, no infinity.

    JSON has one kind of number: 20.0 and 2e1 are the integer 20 in every field that takes integers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Lets every integer field take any spelling of an integer."""
        return cast("CoreSchema", _with_whole_numbers(handler(source)))

    def settled(self) -> Mapping[str, Any]:
        """Fields whose effect the others settle, with the value that stands for all that have the same effect.

        A field without effect has its default; one that is left to the server has what the server would take.
        """
        return {}

    def canonical(self) -> Self:
        """The message that stands for all that mean the same: each has the same numbers as an answer."""
        fields = {**{name: getattr(self, name) for name in type(self).model_fields}, **self.settled()}
        return self.model_copy(update={name: _canonical(value) for name, value in fields.items()})


def _canonical(value: Any) -> Any:
    if isinstance(value, RequestMessage):
        return value.canonical()
    if isinstance(value, list) and value and isinstance(value[0], RequestMessage):
        return [_canonical(part) for part in value]
    return value


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
        description="How many seconds workers may spend on the job, over all attempts, before it fails; null means "
        "what the server allows.",
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
