"""Every message and every field of the API is described by a sentence that a reader of /docs understands alone."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc, isclass
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from hessian_spectrum import api_schemas

NOT_YET_DESCRIBED = {"closed_form_models", "data", "models"}
"""Modules whose descriptions are still being rewritten; each is removed from this set once it conforms."""


def modules() -> Iterator[ModuleType]:
    prefix = f"{api_schemas.__name__}."
    for each in pkgutil.walk_packages(api_schemas.__path__, prefix):
        if each.name.removeprefix(prefix).partition(".")[0] not in NOT_YET_DESCRIBED:
            yield import_module(each.name)


def messages() -> list[type[BaseModel]]:
    return [
        value
        for module in modules()
        for value in vars(module).values()
        if isclass(value) and issubclass(value, BaseModel) and value.__module__ == module.__name__
        if "[" not in value.__name__  # a base RootModel[...], made on the way to a named class
    ]


def is_constant(field: FieldInfo) -> bool:
    """Whether the field only tells one message from another."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def stands_alone(text: str | None) -> bool:
    return bool(text) and text[0].isupper() and text.endswith(".") and len(text.split()) >= 4


def descriptions(schema: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every description within a JSON schema, but for those of the messages that it refers to, by its path."""
    if isinstance(schema, dict):
        if isinstance(schema.get("description"), str):
            yield path, schema["description"]
        for key, value in schema.items():
            if key not in {"$defs", "examples", "default"}:
                yield from descriptions(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from descriptions(value, f"{path}/{index}")


MESSAGES = messages()


def test_messages_are_found() -> None:
    names = {message.__name__ for message in MESSAGES}
    assert {"SpectrumRequest", "HessianVsGgnResult", "ClosedFormSpectrum", "LawAnswer", "Job", "Problem"} <= names
    assert len(MESSAGES) > 80


@pytest.mark.parametrize(
    "text", [None, "", "of the products", "Of products.", "Shape of the array", "shape of an array."]
)
def test_fragments_do_not_stand_alone(text: str | None) -> None:
    assert not stands_alone(text)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_a_message_is_described_by_a_sentence(message: type[BaseModel]) -> None:
    assert stands_alone(cleandoc(message.__doc__ or "")), message.__doc__


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_field_is_described_by_a_sentence(message: type[BaseModel]) -> None:
    if not issubclass(message, RootModel):
        fields = {name: field for name, field in message.model_fields.items() if not is_constant(field)}
        assert {name: field.description for name, field in fields.items() if not stands_alone(field.description)} == {}
    own = message.model_json_schema().get("properties", {})
    assert [(path, text) for path, text in descriptions(own) if not stands_alone(text)] == []
