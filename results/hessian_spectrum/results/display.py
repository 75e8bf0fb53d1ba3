"""Results in notebooks: figures of pyplot, tables of pandas, labelled arrays of xarray."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum_results import Cumulative, Density
from hessian_spectrum.results.plots.curve import draw_curve
from hessian_spectrum.results.plots.drawings import drawing_of
from hessian_spectrum.results.plots.figure_style import FigureStyle
from hessian_spectrum.results.tables import AnyResult, result_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_NOTEBOOK_STYLE = FigureStyle(dpi=100)


def plot(result: AnyResult, **style: Any) -> Any:
    """Draw a result in a new figure of pyplot; arguments and return value as of `DisplayedMessage.plot`."""
    from matplotlib import pyplot  # noqa: PLC0415 - opens windows where there is a screen

    axes = drawing_of(result).figure(FigureStyle(**style), new_figure=pyplot.figure).axes
    return axes[0] if len(axes) == 1 else np.array(axes)


def plot_curve(curve: Density | Cumulative, axes: Any, **options: Any) -> Any:
    """Draw a curve with its band; arguments and return value as of `DisplayedCurve.plot`."""
    if axes is None:
        from matplotlib import pyplot  # noqa: PLC0415 - opens windows where there is a screen

        axes = pyplot.figure(layout="constrained").add_subplot()
    draw_curve(axes, curve, **options)
    return axes


def png(result: AnyResult) -> bytes:
    """Return the picture of a result in the resolution of notebooks, as PNG."""
    return drawing_of(result).file("png", _NOTEBOOK_STYLE)


def to_pandas(result: AnyResult) -> "pd.DataFrame":
    """Convert the main numbers of a result; arguments and return value as of `DisplayedMessage.to_pandas`."""
    import pandas as pd  # noqa: PLC0415 - of an extra

    return pd.DataFrame(result_table(result))


def to_xarray(result: AnyResult) -> "xr.Dataset":
    """Convert the arrays of a result, as `DisplayedMessage.to_xarray` describes it.

    Args:
        result: The result.

    Returns:
        Of Lanczos: density and cumulative share along `eigenvalue`, the log density along `magnitude`, each with
        standard error and band, and nodes, weights and residuals of the quadratures along `probe` and `node`, NaN where
        a probe has fewer nodes. Of closed forms, besides the table: eigenvectors along `vector` and `parameter`,
        and gradient descent along `step`. Of other results: the columns of their table along `row`.
    """
    import xarray as xr  # noqa: PLC0415 - of an extra

    match result:
        case LanczosResult():
            variables = _curve(result.density, "density", "eigenvalue")
            variables |= _curve(result.cumulative, "cumulative", "eigenvalue", has_grid=False)
            variables |= _curve(result.log_density, "log_density", "magnitude") | _quadratures(result)
        case Density() | Cumulative():
            variables = _curve(result, "density" if isinstance(result, Density) else "cumulative", "eigenvalue")
        case ClosedFormSpectrum():
            variables = _table_variables(result) | _closed_form_arrays(result)
        case _:
            variables = _table_variables(result)
    return xr.Dataset(variables, attrs=_attributes(result))


Variables = dict[str, tuple[Any, NDArray[Any]]]


def _table_variables(result: AnyResult) -> Variables:
    return {name: ("row", np.asarray(column)) for name, column in _columns(result).items()}


def _closed_form_arrays(result: ClosedFormSpectrum) -> Variables:
    variables: Variables = {}
    if (own := result.eigenvectors) is not None:
        variables["eigenvectors"] = (("vector", "parameter"), np.asarray(own.vectors))
        variables["eigenvalues_of_vectors"] = ("vector", np.asarray(own.eigenvalues))
    if (path := result.descent) is not None:
        variables["descent_outliers"] = (("step", "outlier"), np.asarray(path.outliers))
        variables |= {f"descent_{name}": ("step", np.asarray(getattr(path, name))) for name in ("loss", "bulk", "c")}
    return variables


def _curve(curve: Density | Cumulative, name: str, dimension: str, *, has_grid: bool = True) -> Variables:
    parts = {"": curve.values, "_standard_error": curve.standard_error}
    parts |= {"_lower": curve.band.lower, "_upper": curve.band.upper}
    grid = {dimension: (dimension, np.asarray(curve.grid))} if has_grid else {}
    return grid | {f"{name}{part}": (dimension, np.asarray(values)) for part, values in parts.items()}


def _quadratures(result: LanczosResult) -> Variables:
    shape = len(result.quadrature), max(len(each.nodes) for each in result.quadrature)
    arrays = {name: np.full(shape, np.nan) for name in ("nodes", "weights", "residuals")}
    for probe, rule in enumerate(result.quadrature):
        for name, array in arrays.items():
            values = getattr(rule, name)
            if values is not None:
                array[probe, : len(values)] = values
    return {name: (("probe", "node"), array) for name, array in arrays.items()}


def _columns(result: Any) -> dict[str, Any]:
    """Return the columns of the table, with NaN for numbers that are not known."""
    return {
        name: [np.nan if value is None else value for value in column]
        if all(value is None or isinstance(value, int | float) for value in column)
        else ["" if value is None else str(value) for value in column]
        for name, column in result_table(result).items()
    }


def _attributes(result: Message) -> dict[str, Any]:
    """Return the single values of a result, those with fields of their own as JSON, so that netCDF can hold them."""
    attributes: dict[str, Any] = {}
    for name, value in result:
        match value:
            case bool():
                attributes[name] = int(value)
            case str() | int() | float():
                attributes[name] = value
            case Message() if not isinstance(value, Density | Cumulative):
                attributes[name] = json.dumps(value.model_dump(mode="json"))
    return attributes
