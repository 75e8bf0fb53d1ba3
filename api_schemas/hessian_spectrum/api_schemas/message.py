"""Base classes of all messages, and the numeric types that several of them use."""

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
"""Largest number of entries of an inline array."""

MAX_EXACT_INTEGER = 2**53
"""Largest magnitude up to which every integer is exactly representable in float64."""


class Message(BaseModel):
    """Base of everything that the server sends: immutable, and tolerant of fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER else value


def _whole_choice(value: Any) -> Any:
    """The same for a literal, to which pydantic would admit True as 1."""
    return None if isinstance(value, bool) else _whole_number(value)


_NO_SCHEMAS = {"config", "default", "expected", "metadata", "serialization"}
"""Keys of a core schema whose values contain no schemas of integers."""


def _with_whole_numbers(schema: Any) -> Any:
    """A core schema that also accepts 20.0 wherever it accepted 20."""
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
    """Base of everything that a caller sends: immutable, without unknown fields, coercion of strings, NaN or infinity.

    JSON has one kind of number: 20.0 and 2e1 are read as the integer 20 in every integer field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Makes every integer field accept any spelling of an integer."""
        return cast("CoreSchema", _with_whole_numbers(handler(source)))

    def settled(self) -> Mapping[str, Any]:
        """Canonical values of fields that the server chooses or that have no effect.

        Returns:
            New values by name of the field: the default for a field that has no effect beside the others, and the
            server's choice for a field that is left to the server.
        """
        return {}

    def canonical(self) -> Self:
        """The canonical form of the message, which is equal for all messages that lead to the same numbers.

        Returns:
            A copy with `settled` fields replaced, in nested messages too.
        """
        fields = {**{name: getattr(self, name) for name in type(self).model_fields}, **self.settled()}
        return self.model_copy(update={name: _canonical(value) for name, value in fields.items()})


def _canonical(value: Any) -> Any:
    if isinstance(value, RequestMessage):
        return value.canonical()
    if isinstance(value, list) and value and isinstance(value[0], RequestMessage):
        return [_canonical(part) for part in value]
    return value


def misfit(*location: str | int, message: str) -> ValidationError:
    """Error at one field that does not fit the others, to be raised by a validator of the message that contains it.

    Args:
        *location: Path from that message to the field.
        message: What is wrong, as a caller reads it.

    Returns:
        The error, for pydantic to merge into its own.
    """
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
        description="Time in seconds that workers may spend on the job, over all attempts, before it fails; null means "
        "the server's limit.",
    ),
]
Tags = Annotated[
    dict[
        Annotated[str, Field(max_length=64, pattern=PRINTABLE)],
        Annotated[str, Field(max_length=256, pattern=PRINTABLE)],
    ],
    Field(max_length=32, description="The caller's own labels for the job, without control characters."),
]

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
    """Numbers per sample: the length of the rows, or None if every sample is a single number."""
    first = values[0]
    return len(first) if isinstance(first, Sequence) else None
