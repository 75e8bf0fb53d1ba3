"""The fenced blocks of the documents."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Block:
    """One fenced block; `place` is file and line."""

    place: str
    language: str
    text: str


@cache
def blocks() -> tuple[Block, ...]:
    """Every fenced block of every document."""
    found = []
    for path in DOCUMENTS:
        for token in MarkdownIt().parse(path.read_text()):
            if token.type == "fence":
                assert token.map is not None
                place = f"{path.relative_to(ROOT)}:{token.map[0] + 1}"
                found.append(Block(place, token.info.strip(), token.content))
    return tuple(found)
