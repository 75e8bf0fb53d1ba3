"""Options of all commands that can write a picture."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

_OPTIONS = {
    "width": Annotated[float | None, typer.Option(help="Width of a picture in inches.")],
    "height": Annotated[float | None, typer.Option(help="Height of a picture in inches.")],
    "dpi": Annotated[int | None, typer.Option(help="Pixels per inch of a PNG picture.")],
    "title": Annotated[
        str | None, typer.Option(help="Title of a picture instead of its own; an empty one removes it.")
    ],
}
_FIELDS = {"width": "width_inches", "height": "height_inches"}
"""Names of the interface that differ from those of the options."""


def with_picture_style(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the argument `style` of a command by an option for each of its settings.

    Args:
        command: Function with a keyword-only argument `style`, which receives the options that are given.

    Returns:
        The function with the options, as Typer reads them from its signature.
    """

    @wraps(command)
    def run(**arguments: Any) -> None:
        style = {_FIELDS.get(name, name): arguments.pop(name) for name in _OPTIONS}
        command(**arguments, style=given(style))

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "style":
            parameters += [parameter.replace(name=name, annotation=_OPTIONS[name], default=None) for name in _OPTIONS]
        else:
            parameters.append(parameter)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def given(options: Mapping[str, T | None]) -> dict[str, T]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}
