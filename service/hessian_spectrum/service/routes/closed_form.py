"""`POST /v1/closed-form`: Hessian spectra that have a formula, as JSON, npz or a figure."""

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydantic_core
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum, EigenvectorChoice
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FigureStyle
from hessian_spectrum.results.tables import csv_text, table_of
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.headers import header, media_type
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.request_parsing import (
    FIGURE_PARAMETERS,
    JSON,
    LARGE_BODY_BYTES,
    MEDIA_TYPES,
    ResultFormat,
    StrictRoute,
    chosen_options,
    figure_style,
    json_body,
    parse_body,
    require_format,
    require_identity,
    unsupported_media_type,
    validate_document,
)
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    CLOSED_FORM_EXAMPLES,
    INVALID_BODY,
    body_documentation,
    formats_documentation,
    problem_documentation,
    upload_documentation,
)
from hessian_spectrum.service.uploads.parser import UPLOAD_MEDIA_TYPES
from hessian_spectrum.theory.closed_form.descent import Descent, linear_descent
from hessian_spectrum.theory.closed_form.families import spectra
from hessian_spectrum.theory.closed_form.spectrum import Eigenvectors, Spectrum

PATH = "/closed-form"

SMALL_BODY_BYTES = 20_000
"""Size in bytes of a thousand doubles: a body up to it is answered faster than a thread starts, if few numbers are
derived from it."""

SMALL_DERIVED_NUMBERS = 10_000
"""Number of attention scores, or of entries of a matrix to diagonalise, that takes about as long to compute."""

MAX_VECTOR_NUMBERS_JSON = 1_000_000
"""Largest number of entries of the eigenvectors in a JSON response, about 20 MB of text."""

MAX_VECTOR_NUMBERS_NPZ = 20_000_000
"""Largest number of entries of the eigenvectors in an npz response, 160 MB."""

router = APIRouter(tags=["closed forms"], route_class=StrictRoute)

_RESPONSES = {
    **INVALID_BODY,
    **problem_documentation(
        status_400="The upload cannot be read.",
        status_406="The response has none of the accepted formats.",
        status_408="The upload takes too long.",
        status_503="Other uploads take all the memory that is reserved for uploads.",
    ),
    200: {"content": formats_documentation()},
}

_BODY = body_documentation(ClosedFormRequest, CLOSED_FORM_EXAMPLES) | {"parameters": [ACCEPT, *FIGURE_PARAMETERS]}
_BODY["requestBody"]["content"] |= upload_documentation()


@router.post(
    PATH,
    response_model=ClosedFormSpectrum,
    responses=_RESPONSES,
    openapi_extra=_BODY,
    summary="The whole Hessian spectrum of a network that has a formula",
)
async def compute_closed_form(request: Request) -> Response:
    """Eigenvalues with multiplicity and role, trace, sharpness, condition number and inertia.

    The loss is (1/2n) sum_i |f(x_i) - y_i|^2; for self-attention it is the mean over positions and sequences, halved.
    On request also eigenvectors, and for `linear` the spectrum along gradient descent. Large arrays come as
    `application/x-npz` or `multipart/form-data` whose members are named like the fields, `w` or `model.w`. The answer
    is JSON, npz or a picture, by Accept.
    """
    name = require_format(header(request.scope, b"accept"))
    style = figure_style(request, name)
    content_type = media_type(request.scope)
    if content_type == JSON:
        return _response(await _render(request, await json_body(request), name=name, style=style), name)
    require_identity(request.scope)
    if content_type not in UPLOAD_MEDIA_TYPES:
        raise unsupported_media_type(JSON, *UPLOAD_MEDIA_TYPES)
    context = service_context(request)
    async with context.upload_parser.parse(request, content_type) as document:
        message = await run_in_threadpool(validate_document, ClosedFormRequest, document)
        return _response(await context.executor.run_in_thread(request, render, message, name, style), name)


async def _render(request: Request, body: bytes, *, name: ResultFormat, style: FigureStyle) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = parse_body(body, ClosedFormRequest)
        if name == "json" and is_small(message, len(body)):
            return render(message, name)
    executor = service_context(request).executor
    arguments = {"name": name, "style": chosen_options(style)}
    return (await executor.run(request, "closed-form", arguments=arguments, content=body)).content


def _response(content: bytes | memoryview, name: ResultFormat) -> Response:
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})


@dataclass(frozen=True)
class ClosedFormResult:
    """The closed form of a request; eigenvectors and descent are None if they were not requested."""

    spectrum: Spectrum
    which: EigenvectorChoice
    eigenvectors: Eigenvectors | None
    descent: Descent | None


def is_small(request: ClosedFormRequest, num_bytes: int) -> bool:
    """Return whether a request whose body has this many bytes is computed fast enough for the event loop itself."""
    num_derived = request.model.closed_form_family.num_derived
    return (
        num_bytes <= SMALL_BODY_BYTES
        and request.eigenvectors == "none"
        and request.descent is None
        and (num_derived is None or num_derived(request.model, request.data.x) <= SMALL_DERIVED_NUMBERS)
    )


def compute(request: ClosedFormRequest, max_vector_numbers: int) -> ClosedFormResult:
    """Compute the spectrum of the Hessian and the requested options.

    Args:
        request: The model, its data and the options.
        max_vector_numbers: Most numbers that the eigenvectors may have.

    Returns:
        The spectrum, with eigenvectors and descent where they were requested.

    Raises:
        TheoryError: If a number leaves the range of floating point.
        ProblemError: 422 if the eigenvectors have too many numbers.
    """
    spectrum = _spectrum(request)
    eigenvectors = _eigenvectors(spectrum, request.eigenvectors, max_vector_numbers)
    return ClosedFormResult(spectrum, request.eigenvectors, eigenvectors, _descent(request))


def _spectrum(request: ClosedFormRequest) -> Spectrum:
    model, data = request.model, request.data
    arguments = {name: value for name, value in vars(model).items() if name != "kind"}
    samples = {} if data.x is None else {"x": data.x, "y": data.y}
    return spectra()[model.kind](**arguments, **samples)


def _eigenvectors(spectrum: Spectrum, which: EigenvectorChoice, max_numbers: int) -> Eigenvectors | None:
    if which == "none":
        return None
    num_vectors, num_parameters = spectrum.num_eigenvectors(which), spectrum.num_parameters
    if num_vectors * num_parameters > max_numbers:
        message = (
            f"{num_vectors} eigenvectors of {num_parameters} numbers are more than the {max_numbers} that this "
            "format carries: request outliers instead of all, npz (Accept: application/x-npz), or none"
        )
        raise invalid_field(["eigenvectors"], message)
    return spectrum.eigenvectors(which)


def _descent(request: ClosedFormRequest) -> Descent | None:
    model: Any = request.model
    data: Any = request.data
    options = request.descent
    if options is None:
        return None
    return linear_descent(
        w=model.w, v=model.v, x=data.x, y=data.y, learning_rate=options.learning_rate, num_steps=options.num_steps
    )


def render(request: ClosedFormRequest, name: str, style: FigureStyle = DEFAULT_STYLE) -> bytes | memoryview:
    """Compute a request and render its result in a format.

    Args:
        request: The model, its data and the options.
        name: `json`, `npz`, `csv` or a format of figures.
        style: Options of a figure that the caller chose.

    Returns:
        The body of the response.

    Raises:
        TheoryError: If a number leaves the range of floating point.
        ProblemError: 422 if the eigenvectors have more numbers than the format carries.
    """
    if name == "json":
        return _json(to_document(compute(request, MAX_VECTOR_NUMBERS_JSON)))
    if name == "npz":
        return _npz(compute(request, MAX_VECTOR_NUMBERS_NPZ))
    without_vectors = compute(request.model_copy(update={"eigenvectors": "none"}), 0)
    if name == "csv":
        return csv_text(table_of(to_document(without_vectors)["eigenvalues"])).encode()
    from hessian_spectrum.results.plots.closed_form import plot_closed_form  # noqa: PLC0415 - loads matplotlib

    return plot_closed_form(without_vectors.spectrum, without_vectors.descent).file(name, style)


def _json(fields: object) -> bytes:
    return pydantic_core.to_json(fields, inf_nan_mode="null")


def _npz(result: ClosedFormResult) -> memoryview:
    """Write the result as arrays without pickle; `document` holds everything but the eigenvectors as JSON.

    An eigenvalue without a group has the group "", one without a pair the pair -1.

    Returns:
        The bytes of the npz file.
    """
    spectrum, eigenvectors = result.spectrum, result.eigenvectors
    rest = to_document(result if eigenvectors is None else replace(result, eigenvectors=_emptied(eigenvectors)))
    arrays = {
        "eigenvalues": np.array([e.value for e in spectrum.eigenvalues]),
        "multiplicities": np.array([e.multiplicity for e in spectrum.eigenvalues]),
        "roles": np.array([e.role for e in spectrum.eigenvalues]),
        "groups": np.array([e.group or "" for e in spectrum.eigenvalues]),
        "pairs": np.array([-1 if e.pair is None else e.pair for e in spectrum.eigenvalues]),
        "trace": np.array(spectrum.trace),
        "document": np.array(_json(rest).decode()),
    }
    if eigenvectors is not None:
        arrays |= {"vectors": eigenvectors.vectors, "vector_eigenvalues": eigenvectors.eigenvalues}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()


def _emptied(eigenvectors: Eigenvectors) -> Eigenvectors:
    return Eigenvectors(eigenvectors.eigenvalues[:0], eigenvectors.vectors[:0])


def to_document(result: ClosedFormResult) -> dict[str, Any]:
    """Return the fields of a `ClosedFormSpectrum`; validating a message would take twice the time."""
    spectrum, inertia, conditioning = result.spectrum, result.spectrum.inertia, result.spectrum.conditioning
    return {
        "kind": spectrum.kind,
        "num_parameters": spectrum.num_parameters,
        "method": spectrum.method,
        "source": spectrum.source,
        "eigenvalues": [
            {"value": e.value, "multiplicity": e.multiplicity, "role": e.role, "group": e.group, "pair": e.pair}
            for e in spectrum.eigenvalues
        ],
        "trace": spectrum.trace,
        "sharpness": spectrum.sharpness,
        "smallest": spectrum.smallest,
        "condition_number": conditioning.value,
        "condition_number_lower": conditioning.lower,
        "condition_number_upper": conditioning.upper,
        "inertia": {"negative": inertia.negative, "zero": inertia.zero, "positive": inertia.positive},
        "critical_point": inertia.critical_point,
        "statistics": spectrum.statistics,
        "eigenvectors": _eigenvector_fields(result),
        "descent": _descent_fields(result.descent),
        "notes": spectrum.notes,
    }


def _eigenvector_fields(result: ClosedFormResult) -> dict[str, Any] | None:
    eigenvectors = result.eigenvectors
    if eigenvectors is None:
        return None
    return {
        "which": result.which,
        "parameters": [{"name": p.name, "shape": p.shape} for p in result.spectrum.parameters],
        "eigenvalues": eigenvectors.eigenvalues.tolist(),
        "vectors": eigenvectors.vectors.tolist(),
    }


def _descent_fields(descent: Descent | None) -> dict[str, Any] | None:
    if descent is None:
        return None
    return {
        "learning_rate": descent.learning_rate,
        "loss": descent.loss.tolist(),
        "outliers": descent.outliers.tolist(),
        "bulk": descent.bulk.tolist(),
        "c": descent.c.tolist(),
        "phase": descent.phase,
        "fixed_dimensions": descent.fixed_dimensions,
        "diverged_at": descent.diverged_at,
        "notes": descent.notes,
    }
