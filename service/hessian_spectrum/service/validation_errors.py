"""Conversion of pydantic's validation errors to fields and messages that a caller can use."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hessian_spectrum.api_schemas.message import SENTENCES
from hessian_spectrum.api_schemas.problem import FieldError

Schema = Mapping[str, Any]

MAX_MESSAGE_LENGTH = 300
MAX_NAME_LENGTH = 64

_MAX_DEPTH = 16
_MAX_LENGTH_OF_NAMES = 200

_WRAPPERS = ("schema", "json_schema", "strict_schema")
"""Keys under which a wrapper schema holds the schema that it wraps."""

_DICT_KEY = "[key]"
"""Marker that pydantic appends to the location of an invalid dictionary key."""


def body_error(message: type[BaseModel], error: Mapping[str, Any]) -> FieldError:
    """Return an error of pydantic about a body as a field error.

    Args:
        message: The class that refused the body; names and kinds in the error's text are read from it.
        error: One entry of `ValidationError.errors()`.

    Returns:
        The field, and what it must be.
    """
    resolved = resolve_location(message, error["loc"][:_MAX_DEPTH])
    location = ["body", *_truncated(resolved.path)]
    match error["type"]:
        case "extra_forbidden":
            return FieldError(loc=location, msg=unknown_name("field", str(resolved.path[-1]), resolved.fields))
        case "union_tag_invalid" | "union_tag_not_found":
            discriminator = [resolved.discriminator] if resolved.discriminator is not None else []
            return FieldError(loc=[*location, *discriminator], msg=_one_of(resolved.kinds, error["ctx"].get("tag")))
        case _:
            return FieldError(loc=location, msg=_sentence(error))


def parameter_error(error: Mapping[str, Any]) -> FieldError:
    """Return an error of pydantic about a header, a path or a query as a field error."""
    return FieldError(loc=_truncated(error["loc"][:_MAX_DEPTH]), msg=_sentence(error))


def _one_of(kinds: Sequence[str], tag: str | None) -> str:
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    similar = similar_name(tag, kinds) if tag is not None else None
    return f"must be one of {listed}" + (f"; did you mean '{similar}'?" if similar is not None else "")


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "string_pattern_mismatch":
        return SENTENCES.get(error["ctx"]["pattern"], "has a form that is not allowed")
    return str(error["msg"])[:MAX_MESSAGE_LENGTH]


def _truncated(path: Sequence[str | int]) -> list[str | int]:
    return [part[:MAX_NAME_LENGTH] if isinstance(part, str) else part for part in path]


def similar_name(name: str, names: Collection[str]) -> str | None:
    """Return the most similar name, ignoring case and separators of words; None if none is similar."""
    by_spelling = {_spelling(each): each for each in names}
    spelling = _spelling(name[:MAX_NAME_LENGTH])
    similar = difflib.get_close_matches(spelling, by_spelling, n=1)
    similar = similar or [each for each in by_spelling if each.startswith(f"{spelling}_")]
    return by_spelling[similar[0]] if similar else None


def unknown_name(what: str, name: str, names: Collection[str]) -> str:
    """Return the message about an unknown name: the name that was probably meant, or all that exist."""
    similar = similar_name(name, [each for each in names if each != name])
    if similar is not None:
        return f"no such {what}; did you mean {similar}?"
    if not names:
        return f"no such {what}; there is none here"
    listed = ", ".join(names)
    if len(listed) > _MAX_LENGTH_OF_NAMES:
        listed = listed[:_MAX_LENGTH_OF_NAMES].rpartition(", ")[0] + ", ..."
    return f"no such {what}; there are {listed}" if len(names) > 1 else f"no such {what}; there is {listed}"


def _spelling(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")


@dataclass
class ErrorLocation:
    """A place in a request, and what the message allows there.

    Attributes:
        path: Names and indices as in the request, without those that pydantic gives members of unions.
        fields: Names of the fields of the message around the last part of the path.
        kinds: Values of the discriminator of the union at this place.
        discriminator: Name of the field that chooses among them.
    """

    path: list[str | int] = field(default_factory=list)
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    discriminator: str | None = None


def resolve_location(message: type[BaseModel], location: Sequence[str | int]) -> ErrorLocation:
    """Follow the location of a validation error through the schema of the message."""
    resolved, schemas = ErrorLocation(), _Schemas()
    schema: Schema | None = schemas.unwrap(message.__pydantic_core_schema__)
    for part in location:
        schema = _step(resolved, schema, part)
        schema = schemas.unwrap(schema) if schema is not None else None
    if schema is not None and schema["type"] == "tagged-union":
        resolved.kinds = tuple(map(str, schema["choices"]))
        resolved.discriminator = schema["discriminator"] if isinstance(schema["discriminator"], str) else None
    return resolved


def _step(resolved: ErrorLocation, schema: Schema | None, part: str | int) -> Schema | None:
    """Follow one part of a location; returns the schema at this place, None if it is unknown."""
    inner: Schema | None = None
    match schema:
        case {"type": "tagged-union", "choices": choices} if part in choices:
            return choices[part]  # type: ignore[no-any-return]
        case {"type": "model-fields", "fields": fields}:
            resolved.fields = tuple(fields)
            inner = fields[part]["schema"] if part in fields else None
        case {"items_schema": Mapping() as items}:
            inner = items
        case {"type": "dict", "values_schema": values}:
            inner = values
        case {"type": "str"} if part == _DICT_KEY:
            return schema
    resolved.path.append(part)
    return inner


class _Schemas:
    """Removes the wrappers of schemas and resolves their references."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}

    def unwrap(self, schema: Schema) -> Schema:
        """Return the schema of a model's fields, a list, a dictionary, a union or a scalar inside."""
        while True:
            if schema["type"] == "definitions":
                self._definitions |= {each["ref"]: each for each in schema["definitions"]}
            if schema["type"] == "definition-ref":
                schema = self._definitions[schema["schema_ref"]]
                continue
            inner = next((schema[name] for name in _WRAPPERS if name in schema), None)
            if not isinstance(inner, Mapping):
                return schema
            schema = inner
