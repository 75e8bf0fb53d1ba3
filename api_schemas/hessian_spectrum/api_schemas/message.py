"""Base classes of all messages, errors at their fields, and the types of texts, numbers and arrays in requests.

Arrays are nested lists in JSON; in Python also array objects, which are checked by shape and data type.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Protocol, Self, cast, runtime_checkable

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

MAX_NUMBERS = 2_000_000
"""Largest number of entries of an inline array."""

MAX_EXACT_INTEGER = 2**53
"""Largest magnitude up to which every integer is exactly representable in float64."""


_PRINTED_ENTRIES = 6
"""Length of a list up to which it is printed in full."""


class Message(BaseModel):
    """Base of everything that the server sends: immutable, and tolerant of fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields with long lists abbreviated: a density has thousands of numbers."""
        for name, value in super().__repr_args__():
            yield name, _abbreviated(value)


class _AbbreviatedList(list[Any]):
    """A list that is printed as its first two entries, its last one and their number."""

    def __repr__(self) -> str:
        first, second, last = (repr(_abbreviated(self[index])) for index in (0, 1, -1))
        return f"[{first}, {second}, ..., {last}] ({len(self):,} entries)"


def _abbreviated(value: Any) -> Any:
    if isinstance(value, list):
        return _AbbreviatedList(value) if len(value) > _PRINTED_ENTRIES else [_abbreviated(each) for each in value]
    if isinstance(value, dict):
        return {name: _abbreviated(each) for name, each in value.items()}
    return value


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER else value


def _whole_choice(value: Any) -> Any:
    """Convert a value for a literal as `_whole_number` does; a boolean, which pydantic would admit, becomes None."""
    return None if isinstance(value, bool) else _whole_number(value)


def _whole_numbers(value: Any) -> Any:
    """Convert every number within lists and objects as `_whole_number` does."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    return [_whole_numbers(each) for each in value] if isinstance(value, list) else _whole_number(value)


AnyValue = Annotated[Any, AfterValidator(_whole_numbers)]
"""A value for a field that is known later, when it is validated; 20.0 and 20 are one value."""

_NO_SCHEMAS = {"config", "default", "expected", "metadata", "serialization"}
"""Keys of a core schema whose values contain no schemas of integers."""


def _with_whole_numbers(schema: Any) -> Any:
    """Return a core schema that also accepts 20.0 wherever the given one accepts 20."""
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
        """Return a schema whose integer fields accept any spelling of an integer, such as 20.0."""
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
            A copy with `settled` fields replaced, in nested messages too; this message if it is canonical already.
        """
        own = {name: getattr(self, name) for name in type(self).model_fields}
        canonical = {name: _canonical(value) for name, value in {**own, **self.settled()}.items()}
        changed = {name: value for name, value in canonical.items() if value is not own[name]}
        return self.model_copy(update=changed) if changed else self


def _canonical(value: Any) -> Any:
    if isinstance(value, RequestMessage):
        return value.canonical()
    if isinstance(value, list) and value and isinstance(value[0], RequestMessage):
        parts = [_canonical(part) for part in value]
        return value if all(map(operator.is_, parts, value)) else parts
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


def moved(error: ValidationError, *location: str | int) -> ValidationError:
    """Move errors to another location, with their kinds and messages.

    Args:
        error: Errors of a message that stands for a part of another one.
        *location: Path from the other message to that part.

    Returns:
        The errors, for pydantic to merge into its own.
    """
    return relocated(error, lambda inner: (*location, *inner))


def relocated(
    error: ValidationError, new_location: Callable[[tuple[str | int, ...]], tuple[str | int, ...]]
) -> ValidationError:
    """Give errors other locations, and keep their kinds and messages.

    Args:
        error: Errors of a message.
        new_location: Returns the new location for each of theirs.

    Returns:
        The errors, for pydantic to merge into its own.
    """
    faults: list[InitErrorDetails] = []
    for fault in error.errors(include_url=False):
        is_own = fault["type"] in ("misfit", "value_error", "assertion_error")
        kind = PydanticCustomError("misfit", "{message}", {"message": fault["msg"]}) if is_own else fault["type"]
        faults.append(
            InitErrorDetails(type=kind, loc=new_location(fault["loc"]), input=fault["input"], ctx=fault.get("ctx", {}))
        )
    return ValidationError.from_exception_data("misfit", faults)


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


SENTENCES: dict[str, str] = {}
"""Error message by pattern: a continuation of the field's name, such as "must be ..."."""


def described(pattern: str, sentence: str) -> str:
    """Register the error sentence of a pattern.

    Args:
        pattern: Regular expression.
        sentence: Continuation of the field's name, such as "must be ...".

    Returns:
        The pattern.
    """
    SENTENCES[pattern] = sentence
    return pattern


SHA256 = described(r"^[0-9a-f]{64}$", "must be 64 hexadecimal digits in lower case")
PRINTABLE = described(r"^[^\x00-\x1f\x7f]*$", "must hold no control characters")

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

WEBHOOK_URL = described(
    r'^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!"$-~]*)?$',
    "must be an http or https URL without user, password and fragment",
)
Webhook = Annotated[
    str | None,
    Field(
        max_length=1024,
        pattern=WEBHOOK_URL,
        description="URL to which the server posts a signed message when the job has ended, on a host that the "
        "operator of the server lists; null means that no message is sent.",
    ),
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


_DTYPES = {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}


@runtime_checkable
class Array(Protocol):
    """The attributes that NumPy arrays and similar objects share; no JSON value has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of the array along each dimension."""
        ...

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def dtype(self) -> Any:
        """Data type; an object with `kind` and `itemsize`."""
        ...

    def __len__(self) -> int: ...


class _OrArray:
    """Accepts, beside the lists of a type, arrays of floats or integers with one of the given numbers of dimensions.

    Array objects are neither copied nor checked for NaN and infinity, and JSON bodies contain none. Whoever builds them
    rejects NaN and infinity, as the service does when it reads an upload.
    """

    def __init__(self, lists: Any, *num_dimensions: int) -> None:
        self._lists = lists
        self._num_dimensions = num_dimensions

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        lists = handler.generate_schema(self._lists)
        either = core_schema.no_info_wrap_validator_function(self._validate, lists)
        return core_schema.json_or_python_schema(json_schema=lists, python_schema=either)

    def _validate(self, value: Any, validate_lists: Callable[[Any], Any]) -> Any:
        if not isinstance(value, Array):
            return validate_lists(value)
        if value.dtype.itemsize not in _DTYPES.get(value.dtype.kind, ()):
            raise misfit(message=f"is an array of {value.dtype!s:.32}; it must hold float32, float64 or integers")
        if value.ndim not in self._num_dimensions:
            allowed = " or ".join(map(str, self._num_dimensions))
            raise misfit(message=f"is an array of {value.ndim} dimensions; it must have {allowed}")
        if 0 in value.shape:
            raise misfit(message="must not be empty")
        return value


ArrayVector = Annotated[list[float] | Array, _OrArray(Vector, 1)]
ArrayRows = Annotated[list[list[float]] | Array, _OrArray(Rows, 2)]
ArrayVectorOrRows = Annotated[list[float] | list[list[float]] | Array, _OrArray(VectorOrRows, 1, 2)]

AnyNumbers = list[float] | list[list[float]] | Array


def shape(values: AnyNumbers) -> tuple[int, ...]:
    """Return the length of a vector, or the numbers of rows and columns of a matrix."""
    if isinstance(values, list):
        first = values[0]
        return (len(values), len(first)) if isinstance(first, list) else (len(values),)
    return values.shape


def check_shape(name: str, have: tuple[int, ...], *, other: str, needed: tuple[int, ...]) -> None:
    """Check that one array of a message has the shape of another.

    Args:
        name: Name of the field of the array.
        have: Shape of the array.
        other: Name of the field of the other array.
        needed: Shape of the other array.

    Raises:
        ValidationError: At the field `name` if the shapes differ.
    """
    if have != needed:
        raise misfit(name, message=f"{name} holds {_spelled(have)}, {other} holds {_spelled(needed)}")


def _spelled(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) + " numbers"
