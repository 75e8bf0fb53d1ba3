"""Lists in the parameters of figures, whose entries must differ: equal points are no independent ones."""

from itertools import pairwise
from typing import Any, TypeVar

from hessian_spectrum.api_schemas.message import misfit

T = TypeVar("T", int, float)


def ascending(values: list[T]) -> list[T]:
    """Return the values if each is larger than the one before.

    Args:
        values: Numbers of a request.

    Returns:
        The same list.

    Raises:
        ValidationError: If one is not.
    """
    for index, (before, value) in enumerate(pairwise(values)):
        if value <= before:
            raise misfit(index + 1, message=f"must be larger than {before:g}, the value before it")
    return values


def distinct(values: list[Any]) -> list[Any]:
    """Return the values if they differ from each other.

    Args:
        values: Entries of a list of a request.

    Returns:
        The same list.

    Raises:
        ValidationError: If a value is there twice.
    """
    for index, value in enumerate(values):
        if value in values[:index]:
            raise misfit(index, message=f"{value} is in the list already")
    return values
