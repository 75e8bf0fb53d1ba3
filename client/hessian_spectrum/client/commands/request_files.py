"""Requests and values that a user writes."""

import json
import sys
from pathlib import Path
from typing import Any

import typer


def read_request(source: str) -> dict[str, Any]:
    """Read a request.

    Args:
        source: Path of a JSON file, or `-` for standard input.

    Returns:
        The fields.

    Raises:
        BadParameter: If it cannot be read, or is no JSON object.
    """
    name = "standard input" if source == "-" else source
    try:
        request = parse_json(_text(source))
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{name} is not a text in UTF-8") from None
    except ValueError as error:
        raise typer.BadParameter(f"{name} is not JSON that can be sent: {error}") from None
    if not isinstance(request, dict):
        raise typer.BadParameter("the request must be a JSON object")
    return request


def parse_json(text: str) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.

    Returns:
        What it represents, which can be sent as JSON.

    Raises:
        ValueError: If it is no JSON, or has numbers, characters or nesting that cannot be sent.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it has half of a character, such as \\ud800") from None
    except ValueError as error:
        is_number = "Out of range" in str(error)
        raise ValueError("it has a number that is not finite, such as NaN" if is_number else str(error)) from None
    return value


def _text(source: str) -> str:
    if source != "-":
        return Path(source).read_text(encoding="utf-8")
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed: name a file")
    return sys.stdin.read()
