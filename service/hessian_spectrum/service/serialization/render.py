"""The result of a job of any kind as JSON, npz or a plot."""

import io
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.jobs import AnyJobResult, JobResult
from hessian_spectrum.api_schemas.methods import TraceResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.results.arrays import result_arrays
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FigureStyle
from hessian_spectrum.results.tables import csv_text, result_table
from hessian_spectrum.service.problems import ProblemError

if TYPE_CHECKING:
    from hessian_spectrum.results.plots.trace import DiagonalSample

_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)


def parse_result(document: bytes) -> AnyJobResult:
    """Parse a stored document.

    Args:
        document: The JSON document of a result.

    Returns:
        The message.

    Raises:
        ProblemError: 406 if another version of the server wrote the document.
    """
    try:
        return _RESULT.validate_json(document)
    except ValidationError:
        title = "Not acceptable"
        detail = "Another version of the server stored this result; it is available as JSON only."
        problem = Problem(type="/problems/result-outdated", title=title, status=406, detail=detail)
        raise ProblemError(problem) from None


def has_diagonal(result: AnyJobResult) -> bool:
    """Return whether a plot of the result needs the diagonal, which is stored beside the document."""
    return isinstance(result, TraceResult) and result.arrays is not None and "diagonal" in result.arrays.shapes


def stored_arrays(result: AnyJobResult) -> StoredArrays | None:
    """Return the description of the npz file beside the document; None if there is none."""
    return None if isinstance(result, HessianVsGgnResult) else result.arrays


def render(
    result: AnyJobResult, name: str, style: FigureStyle = DEFAULT_STYLE, *, diagonal: "DiagonalSample | None" = None
) -> bytes | memoryview:
    """Render a result in a format.

    Args:
        result: The result of a job.
        name: `json`, `csv`, `npz` (without the arrays that are stored beside the document) or a format of figures.
        style: Options of a figure that the caller chose.
        diagonal: The diagonal that a trace job stored, for its plot.

    Returns:
        The body of the response.

    Raises:
        FigureTooLargeError: The figure has too many pixels.
    """
    match name:
        case "json":
            return result.model_dump_json().encode()
        case "csv":
            return csv_text(result_table(result)).encode()
        case "npz":
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **result_arrays(result))
            return buffer.getbuffer()
        case _:
            from hessian_spectrum.results.plots.drawings import drawing_of  # noqa: PLC0415 - loads matplotlib

            return drawing_of(result, diagonal=diagonal).file(name, style)
