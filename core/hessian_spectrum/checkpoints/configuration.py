"""config.json: plain values, of which each reader takes what it understands."""

import json
from pathlib import Path
from typing import Any, NoReturn

from hessian_spectrum.api_schemas.checkpoints import CheckpointError

FILE = "config.json"
MAX_BYTES = 2**20

Configuration = dict[str, Any]

_MAX_SHOWN = 40


def read_configuration(path: Path) -> Configuration:
    """The object in the file.

    Raises:
        CheckpointError: If it is too long, no JSON, no object, repeats a key or holds NaN or infinity.
        OSError: A file cannot be read or written.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{FILE} has more than {MAX_BYTES:,} bytes")
    try:
        found = json.loads(content, object_pairs_hook=_without_repetition, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{FILE} is no JSON: {error!s:.100}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{FILE} holds no object")
    return found


def check_plain(configuration: Configuration) -> None:
    """Raises:  CheckpointError if the weights are quantised.

    Code of the checkpoint's own, which auto_map names, is never run; the worker finds out whether the library has the
    model itself.
    """
    if configuration.get("quantization_config") is not None:
        raise CheckpointError(f"{FILE} has quantization_config: models with quantised weights are not loaded")


class UnknownSizeError(CheckpointError):
    """config.json does not say a size under a usual name."""


def count(configuration: Configuration, *names: str, default: int | None = None) -> int:
    """The positive whole number under the first of these names that is there and not null.

    Raises:
        UnknownSizeError: If there is none and no default.
        CheckpointError: The checkpoint cannot be used.
    """
    for name in names:
        value = configuration.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value < 2**31:
            raise CheckpointError(f"{FILE}: {name} is {shown(value)}, no positive whole number")
        return value
    if default is None:
        raise UnknownSizeError(f"{FILE} has no {names[0]}")
    return default


def shown(value: object) -> str:
    """A value as an error may repeat it."""
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> Configuration:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is repeated")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
