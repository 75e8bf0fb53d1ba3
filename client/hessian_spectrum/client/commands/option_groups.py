"""Groups of options that several commands have."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

_Command = Callable[..., None]


def takes(**groups: Callable[..., Any]) -> Callable[[_Command], _Command]:
    """Give a command groups of options, each in place of one of its arguments.

    Args:
        **groups: By the name of the argument, a function whose parameters are the options, as Typer reads them, and
            which returns the argument.

    Returns:
        A decorator for the command, whose arguments of these names are keyword-only.
    """

    def decorate(command: _Command) -> _Command:
        @wraps(command)
        def run(**arguments: Any) -> None:
            for name, group in groups.items():
                options = {each: arguments.pop(each) for each in inspect.signature(group).parameters}
                arguments[name] = group(**options)
            command(**arguments)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            group = groups.get(parameter.name)
            options = [] if group is None else inspect.signature(group).parameters.values()
            parameters += [each.replace(kind=parameter.kind) for each in options] if group else [parameter]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate
