"""Every block in the documents is in a test, or in the table below with the reason why it cannot be."""

from collections import Counter

import pytest

from tests.docs import test_commands, test_configurations, test_examples, test_how_to
from tests.docs.blocks import Block, blocks

SHOWN_ONLY = {
    "client ── HTTP ──> service": "a drawing",
    "            claim              end": "a drawing",
    "coordinator: claim job": "a drawing",
    "TensorBoardLogger(directory)": "the calls that all loggers have",
    "my-gpt: gpt2, 34,976 parameters": "the output for a checkpoint of the reader",
}
"""Beginnings of blocks of text."""

CONFIGURATIONS = {"yaml", "nginx", "dotenv", "redis"}


def places_of(block: Block) -> list[str]:
    """Where a block runs, is read by the program that it is for, or is listed as one that does not run."""
    document = block.place.partition(":")[0]
    found = {
        "commands": block.place in test_commands.RUN,
        "commands that are not run": block.place in test_commands.LEFT_OUT,
        "programs": block in test_examples.PROGRAMS,
        "the receiver of webhooks": block.language == "python" and block.place.startswith(test_examples.SERVERS),
        "fragments": block in test_examples.FRAGMENTS,
        "outputs": block in test_examples.OUTPUTS.values(),
        "answers": any(block == answer for _, answer in test_examples.ANSWERS),
        "additions": document in ADDITIONS and block.language in {"diff", "json"},
        "configurations": block.language in CONFIGURATIONS,
        "shown only": block.language == "text" and block.text.startswith(tuple(SHOWN_ONLY)),
    }
    return [name for name, holds in found.items() if holds]


ADDITIONS = {f"docs/how-to/{example.name}.md" for example in test_how_to.EXAMPLES}


def test_every_block_is_in_one_test() -> None:
    wrong = {block.place: places for block in blocks() if len(places := places_of(block)) != 1}
    assert wrong == {}


def test_additions_have_one_block_of_a_kind() -> None:
    """Of several, only the last would be applied."""
    kinds = Counter((block.place.partition(":")[0], block.language) for block in blocks())
    assert {kinds[document, language] for document in ADDITIONS for language in ("diff", "json")} == {1}


def test_the_table_has_only_what_is_in_the_documents() -> None:
    texts = [block.text for block in blocks() if block.language == "text"]
    assert [begin for begin in SHOWN_ONLY if not any(text.startswith(begin) for text in texts)] == []


def test_configurations_are_those_that_are_read() -> None:
    every = {block.language for block in blocks()}
    of_others = {"bash", "diff", "json", "python", "text"}
    assert every - of_others == CONFIGURATIONS
    for language in CONFIGURATIONS:
        assert test_configurations.of_language(language)


@pytest.mark.parametrize("block", [Block("docs/new.md:1", "text", "a = 1"), Block("docs/new.md:1", "json", "{}")])
def test_a_new_block_without_a_test_is_found(block: Block) -> None:
    assert places_of(block) == []
