"""Where in a request an error is, and what may stand there, read from the message that refused it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]

_INSIDE = ("schema", "json_schema", "strict_schema")
"""Under which a schema that only wraps another one holds it."""

_OF_A_KEY = "[key]"
"""What pydantic adds to the location of a key of a dictionary that is wrong itself."""


@dataclass
class MessagePlace:
    """A place in a request.

    Attributes:
        path: Names and indices as they stand in the request, without those that pydantic gives members of unions.
        fields: Names that the message around the last part of the path has.
        kinds: Values of the discriminator of the union that stands there.
        discriminator: Name of the field that chooses among them.
    """

    path: list[str | int] = field(default_factory=list)
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    discriminator: str | None = None


def message_place(message: type[BaseModel], location: Sequence[str | int]) -> MessagePlace:
    """Follow the location of a validation error through the message."""
    place, schemas = MessagePlace(), _Schemas()
    schema: Schema | None = schemas.bare(message.__pydantic_core_schema__)
    for part in location:
        schema = _step(place, schema, part)
        schema = schemas.bare(schema) if schema is not None else None
    if schema is not None and schema["type"] == "tagged-union":
        place.kinds = tuple(map(str, schema["choices"]))
        place.discriminator = schema["discriminator"] if isinstance(schema["discriminator"], str) else None
    return place


def _step(place: MessagePlace, schema: Schema | None, part: str | int) -> Schema | None:
    """Take one part into the place; what stands there is None where nothing is known of it."""
    inner: Schema | None = None
    match schema:
        case {"type": "tagged-union", "choices": choices} if part in choices:
            return choices[part]  # type: ignore[no-any-return]
        case {"type": "model-fields", "fields": fields}:
            place.fields = tuple(fields)
            inner = fields[part]["schema"] if part in fields else None
        case {"items_schema": Mapping() as items}:
            inner = items
        case {"type": "dict", "values_schema": values}:
            inner = values
        case {"type": "str"} if part == _OF_A_KEY:
            return schema
    place.path.append(part)
    return inner


class _Schemas:
    """Takes away what wraps a schema, and looks up what it refers to."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}

    def bare(self, schema: Schema) -> Schema:
        """The model's fields, list, dictionary, union or scalar inside."""
        while True:
            if schema["type"] == "definitions":
                self._definitions |= {each["ref"]: each for each in schema["definitions"]}
            if schema["type"] == "definition-ref":
                schema = self._definitions[schema["schema_ref"]]
                continue
            inside = next((schema[name] for name in _INSIDE if name in schema), None)
            if not isinstance(inside, Mapping):
                return schema
            schema = inside
