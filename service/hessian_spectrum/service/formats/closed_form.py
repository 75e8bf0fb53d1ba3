"""The answer to a closed-form request as JSON, npz or a picture."""

import io
from dataclasses import replace

import numpy as np
import pydantic_core

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.service.closed_form import Answer, answer, document
from hessian_spectrum.service.pictures.closed_form import draw_spectrum
from hessian_spectrum.service.pictures.sheet import AS_USUAL, Style
from hessian_spectrum.theory.closed_form.spectrum import Eigenvectors

MAX_VECTOR_NUMBERS_JSON = 1_000_000
"""Numbers in the eigenvectors of an answer in JSON, about 20 MB of text."""

MAX_VECTOR_NUMBERS_NPZ = 20_000_000
"""Numbers in the eigenvectors of an answer as npz, 160 MB."""


def represented(request: ClosedFormRequest, name: str, style: Style = AS_USUAL) -> bytes | memoryview:
    """The answer in this format: json, npz or a picture.

    Raises:  as `answer`.
    """
    if name == "json":
        return _json(document(answer(request, MAX_VECTOR_NUMBERS_JSON)))
    if name == "npz":
        return _npz(answer(request, MAX_VECTOR_NUMBERS_NPZ))
    spectrum_alone = request.model_copy(update={"eigenvectors": "none", "descent": None})
    return draw_spectrum(answer(spectrum_alone, 0).spectrum, name, style)


def _json(fields: object) -> bytes:
    return pydantic_core.to_json(fields, inf_nan_mode="null")


def _npz(answer: Answer) -> memoryview:
    """Arrays that need no pickle, and in `document` everything but the eigenvectors as JSON.

    groups: empty where there is none. pairs: -1 where there is none.
    """
    spectrum, found = answer.spectrum, answer.eigenvectors
    rest = document(answer if found is None else replace(answer, eigenvectors=_emptied(found)))
    arrays = {
        "eigenvalues": np.array([e.value for e in spectrum.eigenvalues]),
        "multiplicities": np.array([e.multiplicity for e in spectrum.eigenvalues]),
        "roles": np.array([e.role for e in spectrum.eigenvalues]),
        "groups": np.array([e.group or "" for e in spectrum.eigenvalues]),
        "pairs": np.array([-1 if e.pair is None else e.pair for e in spectrum.eigenvalues]),
        "trace": np.array(spectrum.trace),
        "document": np.array(_json(rest).decode()),
    }
    if found is not None:
        arrays |= {"vectors": found.vectors, "vector_eigenvalues": found.eigenvalues}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()


def _emptied(found: Eigenvectors) -> Eigenvectors:
    return Eigenvectors(found.eigenvalues[:0], found.vectors[:0])
