"""The result of a job of any kind as JSON, npz or a picture."""

import io

import numpy as np
from pydantic import TypeAdapter, ValidationError

from api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from api_schemas.job_results import AnyJobResult, JobResult
from api_schemas.problem import Problem
from api_schemas.spectrum_results import SpectrumSetResult, StoredArrays, TraceResult
from jobs.arrays import result_arrays
from service.formats.representations import MEDIA_TYPES
from service.pictures.hessian_vs_ggn import draw_comparison
from service.pictures.spectrum import draw_result
from service.pictures.spectrum_set import draw_set
from service.problems import ProblemError

FORMATS = tuple(MEDIA_TYPES)
_WITHOUT_PICTURES = ("json", "npz")

_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(JobResult)


def result_of(document: bytes) -> AnyJobResult:
    """The stored document as a message.

    Raises:  ProblemError 406 if another version of the server wrote it.
    """
    try:
        return _RESULT.validate_json(document)
    except ValidationError:
        title, detail = "Not acceptable", "Another version of the server stored this result; it can be had as JSON."
        problem = Problem(type="/problems/result-outdated", title=title, status=406, detail=detail)
        raise ProblemError(problem) from None


def formats_of(result: AnyJobResult) -> tuple[str, ...]:
    """The formats in which the result can be had: of a trace there is no picture."""
    first = result.spectra[0] if isinstance(result, SpectrumSetResult) else result
    return _WITHOUT_PICTURES if isinstance(first, TraceResult) else FORMATS


def stored_arrays(result: AnyJobResult) -> StoredArrays | None:
    """What only the npz file beside the document holds."""
    return None if isinstance(result, HessianVsGgnResult) else result.arrays


def represented(result: AnyJobResult, name: str) -> bytes | memoryview:
    """The result in one of its formats: json, npz, png or svg; npz without the arrays that lie beside the document."""
    match name:
        case "json":
            return result.model_dump_json().encode()
        case "npz":
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **result_arrays(result))
            return buffer.getbuffer()
        case _ if isinstance(result, HessianVsGgnResult):
            return draw_comparison(result, name)
        case _ if isinstance(result, SpectrumSetResult):
            return draw_set(result, name)
        case _:
            return draw_result(result, name)
