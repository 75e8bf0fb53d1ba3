"""Readers of the interface's documentation see one field at a time: its description is a sentence that stands alone."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

import pytest
from pydantic import BaseModel

from hessian_spectrum import api_schemas

NOT_YET = {
    "estimates",
    "health",
    "hessian_vs_ggn",
    "hessian_vs_ggn_results",
    "jobs",
    "problem",
    "random_matrix",
    "spectrum",
    "spectrum_results",
}
"""Modules whose descriptions are still fragments."""


def modules() -> Iterator[str]:
    for found in walk_packages(api_schemas.__path__, f"{api_schemas.__name__}."):
        yield found.name.removeprefix(f"{api_schemas.__name__}.")


def messages_of(module: str) -> list[type[BaseModel]]:
    name = f"{api_schemas.__name__}.{module}"
    found = vars(import_module(name)).values()
    return [
        each for each in found if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__ == name
    ]


def fragments_of(message: type[BaseModel]) -> dict[str, str]:
    described = {name: field.description for name, field in message.model_fields.items()}
    return {name: text for name, text in described.items() if text is not None and not is_sentence(text)}


def is_sentence(text: str) -> bool:
    return text[0].isupper() and text.endswith(".") and len(text.split()) >= 4


@pytest.mark.parametrize("module", sorted(set(modules()) - NOT_YET))
def test_descriptions_are_sentences(module: str) -> None:
    assert {message.__name__: found for message in messages_of(module) if (found := fragments_of(message))} == {}


@pytest.mark.parametrize("module", sorted(NOT_YET))
def test_what_is_done_is_not_on_the_list(module: str) -> None:
    assert any(fragments_of(message) for message in messages_of(module))


def test_fragments_are_noticed() -> None:
    for text in ("of the products", "Of the products.", "The seed of the probes", "the seed of the probes."):
        assert not is_sentence(text)
    assert is_sentence("The seed of the probes.")
