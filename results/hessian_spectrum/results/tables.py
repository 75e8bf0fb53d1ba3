"""The main numbers of a result as a table: a row for each eigenvalue, point of a grid, or point of an experiment."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.experiments.figure import FigureResult
from hessian_spectrum.api_schemas.experiments.series import SeriesEntry, SeriesResult
from hessian_spectrum.api_schemas.experiments.sweep import SweepResult
from hessian_spectrum.api_schemas.figures.results import Cell
from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult, ModelComparison
from hessian_spectrum.api_schemas.jobs import AnyJobResult, SpectrumSetResult
from hessian_spectrum.api_schemas.message import Message
from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult, TopKResult
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.api_schemas.spectrum_results import Cumulative, Density, Interval, MethodResult

Table = Mapping[str, Sequence[Cell]]
"""Columns by name, all of one length."""

AnyResult = AnyJobResult | Density | Cumulative | ClosedFormSpectrum | LawAnswer | IndexCurveAnswer


def result_table(result: AnyResult) -> Table:
    """Return the main numbers of a result as a table.

    Args:
        result: The result.

    Returns:
        Columns by name: those of a sweep; the numbers at each step of a series, or at each point of a figure or of a
        comparison; eigenvalues, eigenpairs, the density, or the single numbers of a spectrum; of several spectra the
        single numbers of each; the eigenvalues of a closed form; the density of a law, or its index curves.
    """
    match result:
        case Density() | Cumulative():
            table = _curve_table(result)
        case ClosedFormSpectrum():
            table = table_of([each.model_dump() for each in result.eigenvalues])
        case LawAnswer():
            table = {"eigenvalue": result.grid, "density": result.density, "cumulative": result.cumulative}
        case IndexCurveAnswer():
            table = _index_table(result)
        case MethodResult():
            table = _spectrum_table(result)
        case SweepResult():
            table = result.columns
        case SeriesResult():
            table = table_of([_series_row(point) for point in result.points])
        case FigureResult():
            table = table_of(result.points)
        case HessianVsGgnResult():
            table = table_of([row for curve in result.curves for row in comparison_rows(curve)])
        case SpectrumSetResult():
            table = table_of([_set_row(index, spectrum) for index, spectrum in enumerate(result.spectra)])
        case _:
            table = _fields_table(result)
    return table


def comparison_rows(model: ModelComparison) -> list[dict[str, Cell]]:
    """Return a row for each point of a compared model."""
    rows = []
    for run in model.runs:
        for point in run.points:
            row: dict[str, Cell] = {"model": model.label, "seed": run.seed, "step": point.step, "loss": point.loss}
            row["mean_residual_norm"] = point.mean_residual_norm
            for name, top in (("hessian", point.hessian), ("ggn", point.ggn)):
                row |= {name: top.value, f"{name}_lower": top.lower, f"{name}_upper": top.upper}
            error = point.relative_error
            row["relative_error"] = None if error is None else error.value
            row["relative_error_uncertainty"] = None if error is None else error.uncertainty
            rows.append(row)
    return rows


def _index_table(answer: IndexCurveAnswer) -> Table:
    """Return the points of the index curves with the ratio of each."""
    points = [
        (curve.ratio, energy, index)
        for curve in answer.curves
        for energy, index in zip(curve.energies, curve.index, strict=True)
    ]
    return table_of([{"ratio": ratio, "energy": energy, "index": index} for ratio, energy, index in points])


def _curve_table(curve: Density | Cumulative) -> Table:
    name = "density" if isinstance(curve, Density) else "cumulative"
    return {
        "eigenvalue": curve.grid,
        name: curve.values,
        "lower": curve.band.lower,
        "upper": curve.band.upper,
    }


def _set_row(index: int, spectrum: MethodResult) -> dict[str, Cell]:
    """Return the single numbers of one of several spectra."""
    row: dict[str, Cell] = {"spectrum": index, "block": spectrum.block, "loss": spectrum.loss}
    if spectrum.attention_sink is not None:
        row["mean_score"] = spectrum.attention_sink.mean_score_after
    for name, number in headlines(spectrum).items():
        row |= {name: number.value, f"{name}_lower": number.lower, f"{name}_upper": number.upper}
    return row


def _fields_table(result: Message) -> Table:
    """Return the lists of plain numbers of one length among the fields of another result."""
    lists = {name: value for name, value in result if isinstance(value, list) and all(map(_is_cell, value))}
    longest = max(map(len, lists.values()), default=0)
    return {name: value for name, value in lists.items() if len(value) == longest}


def _is_cell(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None)


def _spectrum_table(result: MethodResult) -> Table:
    match result:
        case ExactResult():
            return {"eigenvalue": result.eigenvalues}
        case TopKResult():
            return table_of([pair.model_dump() for pair in result.eigenpairs])
        case LanczosResult(density=density):
            return _curve_table(density)
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


def _series_row(point: SeriesEntry) -> dict[str, Any]:
    """Return the single numbers of a point, with their intervals, in a flat row."""
    row: dict[str, Any] = {}
    numbers = {name: getattr(point, name) for name in type(point).model_fields}
    if point.overlaps is not None:
        numbers |= {f"overlap_{space.size}": space for space in point.overlaps.spaces}
    for name, value in numbers.items():
        if isinstance(value, Interval):
            number = value.model_dump()
            row[name] = number.pop("value")
            row |= {f"{name}_{part}": each for part, each in number.items() if part in ("lower", "upper")}
        elif _is_cell(value):
            row[name] = value
    row["jobs"] = " ".join(point.jobs) or None
    return {name: value for name, value in row.items() if value is not None or name in ("learning_rate", "problem")}
