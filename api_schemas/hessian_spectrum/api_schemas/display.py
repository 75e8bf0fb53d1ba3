"""Results in notebooks: figures, tables and labelled arrays, made by the distribution `hessian-spectrum-results`."""

import importlib
from collections.abc import Iterator
from typing import Any

from hessian_spectrum.api_schemas.message import Message

_MAX_PRINTED_CHARACTERS = 240
"""Length of the text of a field above which it is abbreviated."""

BACKEND = "hessian_spectrum.results.display"
"""Module that draws and converts results."""

_MISSING = (
    "to draw results and to convert them to pandas and xarray, run in the repository: "
    "pip install ./api_schemas './results[notebook]'"
)


class DisplayedMessage(Message):
    """A result that notebooks show as a picture, and that is printed in a few lines."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields, with long values abbreviated."""
        for name, value in super().__repr_args__():
            yield name, value if len(repr(value)) <= _MAX_PRINTED_CHARACTERS else _Shortened(value)

    def plot(self, **style: Any) -> Any:
        """Draw the result in a new figure of pyplot.

        Args:
            **style: Options of the figure: width_inches, height_inches and title, or some of them.

        Returns:
            The axes of the figure, one or an array of several.

        Raises:
            ImportError: If matplotlib or hessian-spectrum-results is not installed.
        """
        return _backend().plot(self, **style)

    def to_pandas(self) -> Any:
        """Convert the main numbers of the result.

        Returns:
            A `pandas.DataFrame` with the columns of the result as CSV.

        Raises:
            ImportError: If pandas or hessian-spectrum-results is not installed.
        """
        return _backend().to_pandas(self)

    def to_xarray(self) -> Any:
        """Convert all arrays of the result.

        Returns:
            An `xarray.Dataset` with named dimensions; the other fields of the result are its attributes.

        Raises:
            ImportError: If xarray or hessian-spectrum-results is not installed.
        """
        return _backend().to_xarray(self)

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows; None, for the text instead, where it cannot be drawn."""
        try:
            picture: bytes = _backend().png(self)
        except ImportError:
            return None
        return picture


class DisplayedCurve(DisplayedMessage):
    """A curve with a band, which can be added to axes that exist."""

    def plot(self, axes: Any = None, **options: Any) -> Any:
        """Draw the curve and its 95 % band.

        Args:
            axes: Axes of matplotlib; None: those of a new figure of pyplot.
            **options: Options of `axes.plot` for the curve, such as `label` and `color`.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib or hessian-spectrum-results is not installed.
        """
        return _backend().plot_curve(self, axes, **options)


class _Shortened:
    """A long value, which is printed as its type and size."""

    def __init__(self, value: Any) -> None:
        size = f"{len(value):,} entries" if isinstance(value, list | dict) else "..."
        name = "" if isinstance(value, list | dict) else type(value).__name__
        self._text = f"{name}({size})"

    def __repr__(self) -> str:
        return self._text


def _backend() -> Any:
    try:
        return importlib.import_module(BACKEND)
    except ModuleNotFoundError as error:
        raise ImportError(_MISSING) from error
