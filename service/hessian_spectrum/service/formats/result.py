"""The result of a job of any kind as JSON, npz or a picture."""

import io

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.api_schemas.job_results import AnyJobResult, JobResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum_results import SpectrumSetResult, StoredArrays, TraceResult
from hessian_spectrum.serialization.result_arrays import result_arrays
from hessian_spectrum.service.pictures.diagonal import DiagonalSample
from hessian_spectrum.service.pictures.hessian_vs_ggn import draw_comparison
from hessian_spectrum.service.pictures.sheet import AS_USUAL, Style
from hessian_spectrum.service.pictures.spectrum import draw_result
from hessian_spectrum.service.pictures.spectrum_set import draw_set
from hessian_spectrum.service.problems import ProblemError

_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)


def result_of(document: bytes) -> AnyJobResult:
    """The stored document as a message.

    Raises:
        ProblemError: 406 if another version of the server wrote it.
    """
    try:
        return _RESULT.validate_json(document)
    except ValidationError:
        title, detail = "Not acceptable", "Another version of the server stored this result; it can be had as JSON."
        problem = Problem(type="/problems/result-outdated", title=title, status=406, detail=detail)
        raise ProblemError(problem) from None


def has_diagonal(result: AnyJobResult) -> bool:
    """Whether a picture of the result needs the diagonal that lies beside the document."""
    return isinstance(result, TraceResult) and result.arrays is not None and "diagonal" in result.arrays.shapes


def stored_arrays(result: AnyJobResult) -> StoredArrays | None:
    """What only the npz file beside the document holds."""
    return None if isinstance(result, HessianVsGgnResult) else result.arrays


def represented(
    result: AnyJobResult, name: str, style: Style = AS_USUAL, diagonal: DiagonalSample | None = None
) -> bytes | memoryview:
    """The result in one of its formats: json, npz without the arrays that lie beside the document, or a picture."""
    match name:
        case "json":
            return result.model_dump_json().encode()
        case "npz":
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **result_arrays(result))
            return buffer.getbuffer()
        case _ if isinstance(result, HessianVsGgnResult):
            return draw_comparison(result, name, style)
        case _ if isinstance(result, SpectrumSetResult):
            return draw_set(result, name, style)
        case _:
            return draw_result(result, name, style, diagonal)
