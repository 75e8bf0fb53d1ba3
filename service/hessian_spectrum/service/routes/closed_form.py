"""`POST /v1/closed-form`: Hessian spectra that have a formula."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum
from hessian_spectrum.service.closed_form import is_small, render
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.plots.figure import FigureStyle
from hessian_spectrum.service.request_body import (
    JSON,
    LARGE_BODY_BYTES,
    json_body,
    media_type,
    parse_body,
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
from hessian_spectrum.service.routes.parameters import (
    FIGURE_PARAMETERS,
    MEDIA_TYPES,
    ResultFormat,
    StrictRoute,
    figure_style,
    require_format,
)
from hessian_spectrum.service.uploads.parser import UPLOAD_MEDIA_TYPES

PATH = "/closed-form"

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
    name = require_format(request.headers.get("accept"))
    style = figure_style(request, name)
    sent_as = media_type(request.headers)
    if sent_as == JSON:
        return _response(await _render(await json_body(request), name, style, request), name)
    require_identity(request.headers)
    if sent_as not in UPLOAD_MEDIA_TYPES:
        raise unsupported_media_type(JSON, *UPLOAD_MEDIA_TYPES)
    context = service_context(request)
    async with context.upload_parser.parse(request, sent_as) as document:
        message = await run_in_threadpool(validate_document, ClosedFormRequest, document)
        return _response(await context.executor.run_in_thread(request, render, message, name, style), name)


async def _render(body: bytes, name: ResultFormat, style: FigureStyle, request: Request) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = parse_body(body, ClosedFormRequest)
        if name == "json" and is_small(message, len(body)):
            return render(message, name)
    executor = service_context(request).executor
    return (await executor.run(request, "closed-form", {"name": name, "style": style.choices}, body)).content


def _response(content: bytes | memoryview, name: ResultFormat) -> Response:
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})
