"""Regular expressions for texts in requests, each with the sentence that a caller reads when a text does not match."""

SENTENCES: dict[str, str] = {}
"""Error sentence by pattern."""


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
