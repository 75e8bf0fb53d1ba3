"""What a caller who wrote an unknown name may have meant."""

import difflib
import re
from collections.abc import Collection

_MAX_NAME_LENGTH = 64
_MAX_NAMES_SHOWN = 200
"""Characters of a list of names."""


def near_name(name: str, names: Collection[str]) -> str | None:
    """The name that is most like it, whatever the case and the characters between words; None if none is near."""
    by_spelling = {_spelling(each): each for each in names}
    spelling = _spelling(name[:_MAX_NAME_LENGTH])
    near = difflib.get_close_matches(spelling, by_spelling, n=1)
    near = near or [each for each in by_spelling if each.startswith(f"{spelling}_")]
    return by_spelling[near[0]] if near else None


def unknown_name(what: str, name: str, names: Collection[str]) -> str:
    """Message about a name that is not known: the one that may have been meant, or those that there are."""
    near = near_name(name, names)
    if near is not None:
        return f"no such {what}; did you mean {near}?"
    if not names:
        return f"no such {what}; there is none here"
    listed = ", ".join(names)
    shown = listed if len(listed) <= _MAX_NAMES_SHOWN else listed[:_MAX_NAMES_SHOWN].rpartition(", ")[0] + ", ..."
    return f"no such {what}; there are {shown}" if len(names) > 1 else f"no such {what}; there is {shown}"


def _spelling(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")
