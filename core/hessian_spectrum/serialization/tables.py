"""The main numbers of a result as a table: a row for each eigenvalue, point of a grid, or point of an experiment."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.experiments.series import SeriesResult
from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.api_schemas.figures.results import Cell
from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.jobs import AnyJobResult
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult, TopKResult
from hessian_spectrum.api_schemas.spectrum_results import Interval, MethodResult

Table = Mapping[str, Sequence[Cell]]
"""Columns by name, all of one length."""


def result_table(result: AnyJobResult) -> Table | None:
    """The main numbers of a result.

    Args:
        result: The result.

    Returns:
        Columns by name: those of a sweep; the numbers at each step of a series, or at each point of a figure;
        eigenvalues, eigenpairs, the density, or the single numbers of a spectrum. None for a result of another kind.
    """
    match result:
        case MethodResult():
            return _spectrum_table(result)
        case SweepResult():
            return result.columns
        case SeriesResult():
            return table_of([_series_row(point) for point in result.points])
        case FigureResult():
            return table_of(result.points)
        case _:
            return None


def _spectrum_table(result: MethodResult) -> Table:
    match result:
        case ExactResult():
            return {"eigenvalue": result.eigenvalues}
        case TopKResult():
            return table_of([pair.model_dump() for pair in result.eigenpairs])
        case LanczosResult(density=density):
            ends = {"lower": density.band.lower, "upper": density.band.upper}
            return {"eigenvalue": density.grid, "density": density.values} | ends
        case _:
            return table_of([{"quantity": name, **each.model_dump()} for name, each in headlines(result).items()])


def csv_text(table: Table) -> str:
    """Write a table as CSV: a header, then a line for each row; what is not known is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table with these rows; a value that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _series_row(point: Message) -> dict[str, Any]:
    """Return the single numbers of a point, with their intervals, in a flat row."""
    row: dict[str, Any] = {}
    for name in type(point).model_fields:
        value = getattr(point, name)
        if isinstance(value, Interval):
            number = value.model_dump()
            row[name] = number.pop("value")
            row |= {f"{name}_{part}": each for part, each in number.items() if part in ("lower", "upper")}
        elif isinstance(value, bool | int | float | str | None):
            row[name] = value
    return {name: value for name, value in row.items() if value is not None or name in ("learning_rate", "problem")}
