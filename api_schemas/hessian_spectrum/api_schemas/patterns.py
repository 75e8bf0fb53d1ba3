"""Patterns of texts in requests, each with the sentence that a caller reads instead of it."""

SENTENCES: dict[str, str] = {}
"""By pattern, what a text that does not match must be."""


def described(pattern: str, sentence: str) -> str:
    """The pattern, whose refusals read like the sentence."""
    SENTENCES[pattern] = sentence
    return pattern


SHA256 = described(r"^[0-9a-f]{64}$", "must be 64 hexadecimal digits in lower case")
PRINTABLE = described(r"^[^\x00-\x1f\x7f]*$", "must hold no control characters")
