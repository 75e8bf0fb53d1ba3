"""The file config.json: plain values, of which each reader uses those that it understands."""

import json
from pathlib import Path
from typing import Any, NoReturn

from hessian_spectrum.api_schemas.checkpoints import CheckpointError

FILE = "config.json"
MAX_BYTES = 2**20

Configuration = dict[str, Any]

_MAX_SHOWN = 40


def read_configuration(path: Path) -> Configuration:
    """Read a configuration file.

    Args:
        path: Path of the file.

    Returns:
        The JSON object that it holds.

    Raises:
        CheckpointError: The file is too long, is not JSON, is not an object, repeats a key, or holds NaN or infinity.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{FILE} has more than {MAX_BYTES:,} bytes")
    try:
        fields = json.loads(content, object_pairs_hook=_without_repetition, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{FILE} is no JSON: {error!s:.100}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{FILE} holds no object")
    return fields


def check_plain(configuration: Configuration) -> None:
    """Check that the weights are not quantised.

    The checkpoint's own code, which auto_map names, is never run; the worker determines whether the library has the
    model.

    Args:
        configuration: Configuration of the checkpoint.

    Raises:
        CheckpointError: The weights are quantised.
    """
    if configuration.get("quantization_config") is not None:
        raise CheckpointError(f"{FILE} has quantization_config: models with quantised weights are not loaded")


class UnknownSizeError(CheckpointError):
    """The configuration does not give a size under a usual name."""


def count(configuration: Configuration, *names: str, default: int | None = None) -> int:
    """Read a positive whole number.

    Args:
        configuration: Configuration of the checkpoint.
        *names: Names of the field, in order of preference; names that are missing or null are skipped.
        default: Value where there is none; None: there has to be one.

    Returns:
        The number.

    Raises:
        UnknownSizeError: There is neither a number nor a default.
        CheckpointError: The value is not a positive whole number.
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
    """A value in the form in which an error message repeats it."""
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> Configuration:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is repeated")
    return fields


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
