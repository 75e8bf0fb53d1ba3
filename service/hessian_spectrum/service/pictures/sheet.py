"""What all pictures share: the size, resolution and title that a caller may choose, and how a file is made."""

import io
import math
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure

from hessian_spectrum.service.problems import invalid_query

PICTURES = ("png", "svg", "pdf")
"""Formats that are pictures."""

MAX_PIXELS = 20_000_000
"""Of one picture: 80 MB while it is drawn, about a second for its file."""

DPI = 150

_DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib's settings and caches are shared and not made for threads."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and set in another font
    "svg.hashsalt": "spectrum",  # the same picture is the same file
    "pdf.fonttype": 42,  # fonts as journals want them
}
_NO_DATE: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_FONT_POINTS = 10.0
_LETTERS_PER_INCH = 11.0  # of a title of this size


@dataclass(frozen=True)
class Style:
    """How a caller wants a picture; None: as it is made for the screen, a title of "": none."""

    width_inches: float | None = None
    height_inches: float | None = None
    dpi: int | None = None
    title: str | None = None

    @property
    def choices(self) -> dict[str, float | str]:
        """By name, what the caller chose."""
        return {name: value for name, value in vars(self).items() if value is not None}


AS_USUAL = Style()


def drawn(draw: Callable[[Figure], str], size: tuple[float, float], name: str, style: Style) -> bytes:
    """The file of a picture.

    Args:
        draw: Fills the figure and returns its title.
        size: Width and height in inches; a style that has one of them keeps their ratio.
        name: One of `PICTURES`.

    Raises:
        ProblemError: 422 for more than `MAX_PIXELS` pixels.
    """
    width, height = _size(size, style)
    dpi = style.dpi or DPI
    if width * height * dpi**2 > MAX_PIXELS:
        message = f"{width * dpi:,.0f} x {height * dpi:,.0f} pixels are more than {MAX_PIXELS:,}"
        raise invalid_query("dpi", message)
    font_size = _FONT_POINTS * min(1.5, math.sqrt(width / size[0]))  # smaller in small pictures, but not as much
    with _DRAWING, rc_context({**_SETTINGS, "font.size": font_size}):
        figure = Figure(figsize=(width, height), layout="constrained")
        title = draw(figure)
        if style.title is not None:
            title = style.title
        if title:
            letters = _LETTERS_PER_INCH * width * _FONT_POINTS / font_size
            is_own = style.title is None  # of others formulas are not read: they would have to be right ones
            figure.suptitle(textwrap.fill(title, round(letters)), fontsize="medium", parse_math=is_own)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=name, dpi=dpi, metadata=_NO_DATE.get(name))
        return buffer.getvalue()


def columns_that_fit(figure: Figure, num_columns: int, inches: float) -> int:
    """Columns of a legend, as many as the figure's width has room for, each so wide in letters of the usual size."""
    width = inches * rcParams["font.size"] / _FONT_POINTS
    return max(1, min(num_columns, int(figure.get_figwidth() / width)))


def _size(usual: tuple[float, float], style: Style) -> tuple[float, float]:
    width, height = style.width_inches, style.height_inches
    if width is None:
        width = usual[0] if height is None else height * usual[0] / usual[1]
    return width, height or width * usual[1] / usual[0]
