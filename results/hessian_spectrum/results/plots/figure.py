"""Common parts of all plots: size, title and file of a figure, colours, and units and ticks of its axes."""

import io
import math
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.figure import Figure

from hessian_spectrum.api_schemas.spectrum_results import Estimate, MethodResult, RitzValue
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FigureStyle, FigureTooLargeError

MAX_PIXELS = 20_000_000
"""Largest number of pixels of a figure: 80 MB while it is drawn, and about a second to encode its file."""

DPI = 150

BLUE, RED, GREEN, PURPLE, GREY = "#1f5fa8", "#c8452f", "#2a9d5c", "#7a4fa3", "#6b7280"
"""Colours that the plots have in common."""

_DRAWING = threading.Lock()
"""Lock that is held while a figure is drawn: matplotlib's settings and caches are shared and not thread-safe."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and set in another font
    "svg.hashsalt": "spectrum",  # equal figures are equal files
    "pdf.fonttype": 42,  # fonts as journals want them
}
_NO_DATE: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_FONT_POINTS = 10.0
_CHARACTERS_PER_INCH = 11.0  # of a title of _FONT_POINTS


@dataclass(frozen=True)
class Drawing:
    """A picture that can be drawn at any size.

    Attributes:
        draw: Fills a figure, and returns its title.
        size: Default width and height in inches; a style with one of them keeps their ratio.
    """

    draw: Callable[[Figure], str]
    size: tuple[float, float]

    def figure(self, style: FigureStyle = DEFAULT_STYLE, new_figure: Callable[..., Figure] = Figure) -> Figure:
        """Draw the picture.

        Args:
            style: Options that the caller chose.
            new_figure: Makes the figure; the default belongs to no window.

        Returns:
            The figure.
        """
        size = _size(self.size, style)
        font_size = self._font_size(size)
        with _DRAWING, rc_context({**_SETTINGS, "font.size": font_size}):
            figure = new_figure(figsize=size, layout="constrained")
            title = self.draw(figure)
            if style.title is not None:
                title = style.title
            if title:
                most = round(_CHARACTERS_PER_INCH * size[0] * _FONT_POINTS / font_size)
                lines = [balanced(line, most) for line in title.splitlines()]
                is_own = style.title is None  # a caller's title may hold invalid formulas
                figure.suptitle("\n".join(lines), fontsize="medium", parse_math=is_own)
        return figure

    def file(self, name: str, style: FigureStyle = DEFAULT_STYLE) -> bytes:
        """Draw the picture, and return its file.

        Args:
            name: One of `FIGURE_FORMATS`.
            style: Options that the caller chose.

        Returns:
            The bytes of the file.

        Raises:
            FigureTooLargeError: It would have more than `MAX_PIXELS` pixels.
        """
        width, height = size = _size(self.size, style)
        dpi = style.dpi or DPI
        if width * height * dpi**2 > MAX_PIXELS:
            message = f"{width * dpi:,.0f} x {height * dpi:,.0f} pixels are more than {MAX_PIXELS:,}"
            raise FigureTooLargeError(message)
        figure, buffer = self.figure(style), io.BytesIO()
        with _DRAWING, rc_context({**_SETTINGS, "font.size": self._font_size(size)}):  # ticks are made only now
            figure.savefig(buffer, format=name, dpi=dpi, metadata=_NO_DATE.get(name))
        return buffer.getvalue()

    def _font_size(self, size: tuple[float, float]) -> float:
        """Return the size of the font in points; it grows with the square root of the width of the figure."""
        return _FONT_POINTS * min(1.5, math.sqrt(size[0] / self.size[0]))


def balanced(text: str, most: int) -> str:
    """Break a text into the smallest number of lines, all about equally long.

    With lines as long as possible, the last one would often be a single word.

    Args:
        text: Text without line breaks.
        most: Largest number of characters in a line; a longer word is broken.

    Returns:
        The lines.
    """
    count, longest = len(textwrap.wrap(text, most)), max(map(len, text.split()), default=1)
    width = next(width for width in range(min(longest, most), most + 1) if len(textwrap.wrap(text, width)) <= count)
    return textwrap.fill(text, width)


def colour_scale(number: int) -> list[Any]:
    """Return this many colours of a sequential map, without its lightest ones."""
    return [tuple(colour) for colour in colormaps["viridis"](np.linspace(0, 0.9, number))]


def shortened(text: str) -> str:
    """Return a caller's text, shortened and escaped, since matplotlib parses formulas."""
    short = text if len(text) <= 30 else f"{text[:29]}…"
    return short.replace("$", r"\$")


def columns_that_fit(figure: Figure, num_columns: int, inches: float) -> int:
    """Return the number of columns of a legend for which the figure is wide enough.

    Args:
        figure: The figure around the legend.
        num_columns: Most columns.
        inches: Width of one column at the default font size.

    Returns:
        At least 1.
    """
    width = inches * rcParams["font.size"] / _FONT_POINTS
    return max(1, min(num_columns, int(figure.get_figwidth() / width)))


def _size(default: tuple[float, float], style: FigureStyle) -> tuple[float, float]:
    width, height = style.width_inches, style.height_inches
    if width is None:
        width = default[0] if height is None else height * default[0] / default[1]
    return width, height or width * default[1] / default[0]


def axis_unit(scale: float) -> float:
    """Return the unit of an axis: 1, or a power of ten where numbers of this size make matplotlib's axes overflow."""
    return 1.0 if 1e-12 < scale < 1e12 or not scale else 10.0 ** max(-307, math.floor(math.log10(scale)))


def unit_suffix(unit: float) -> str:
    """Return the suffix of an axis label that names the unit; empty for 1."""
    return "" if unit == 1.0 else f" / {unit:.0e}"


def decade_ticks(smallest: float, largest: float) -> list[float]:
    """Return ticks at zero and at powers of ten on both sides, none so near to zero that their labels overlap."""
    exponents = np.arange(np.ceil(np.log10(smallest) + 0.5), np.ceil(np.log10(largest)) + 1)
    powers = (10.0 ** exponents[:: 1 + len(exponents) // 6]).tolist()
    return [*(-power for power in reversed(powers)), 0.0, *powers]


class DrawInSet(Protocol):
    """Adds a result to axes that all results of a set share."""

    def __call__(self, axes: Any, spectrum: Any, /, *, unit: float, colour: Any, label: str, index: int) -> None:
        """Add the result.

        Args:
            axes: The axes.
            spectrum: The result.
            unit: Unit of the axis of eigenvalues.
            colour: Colour of the result.
            label: Name of the result in the legend.
            index: Position of the result in the set.
        """
        ...


@dataclass(frozen=True)
class MethodPlot:
    """The plot functions of one method; a module of this package lists them in `METHOD_PLOTS` by the method's name.

    Attributes:
        draw: Draws one result into a figure, with the sample of a stored diagonal if there is one, and returns the
            title without its subject.
        extent: Largest magnitude of a result, which decides the unit of the axis.
        draw_in_set: Adds a result to axes that all results of a set share.
        set_labels: Labels of both axes of a set, for the suffix that names the unit.
        scale_set: Chooses scale and limits of the axes of a set: (axes, results, unit).
        has_ranks: Whether the axis across counts.
        headline: The number that stands for a result in the legend of a set, and its name; None: none does.
        height: Height of the figure in inches, with or without a diagonal.
    """

    draw: Callable[[Figure, Any, Any], str]
    extent: Callable[[Any], float]
    draw_in_set: DrawInSet
    set_labels: Callable[[str], tuple[str, str]]
    scale_set: Callable[[Any, Sequence[Any], float], None] = lambda _axes, _spectra, _unit: None
    has_ranks: bool = False
    headline: Callable[[Any], tuple[str, RitzValue | Estimate]] | None = None
    height: Callable[[bool], float] = lambda _: 5


def products_of(result: MethodResult) -> str:
    """Return the number and precision of the products of a result, for its title."""
    return f"{result.provenance.num_products:,} {result.provenance.precision} products"
