"""What a caller can choose about a figure; matplotlib, which draws it, is not loaded for that."""

from dataclasses import dataclass

FIGURE_FORMATS = ("png", "svg", "pdf")
"""Formats of results that are figures."""


@dataclass(frozen=True)
class FigureStyle:
    """The options of a figure that a caller chose; None stands for the default, a title of "" for no title."""

    width_inches: float | None = None
    height_inches: float | None = None
    dpi: int | None = None
    title: str | None = None


DEFAULT_STYLE = FigureStyle()


class FigureTooLargeError(ValueError):
    """A figure would have too many pixels."""
