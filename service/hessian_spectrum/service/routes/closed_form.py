"""`POST /v1/closed-form`."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum
from hessian_spectrum.service.bodies import LARGE_BODY_BYTES, json_body, read, validated
from hessian_spectrum.service.closed_form import is_small
from hessian_spectrum.service.content_type import JSON, media_type, require_identity, unsupported_media_type
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.formats.closed_form import represented
from hessian_spectrum.service.formats.representations import MEDIA_TYPES, require_format
from hessian_spectrum.service.pictures.sheet import Style
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    CLOSED_FORM_EXAMPLES,
    INVALID_BODY,
    body_documentation,
    formats_documentation,
    problem_documentation,
    upload_documentation,
)
from hessian_spectrum.service.routes.picture_style import PICTURE_PARAMETERS, picture_style
from hessian_spectrum.service.routes.strict_route import StrictRoute
from hessian_spectrum.service.uploads.parser import UPLOAD_MEDIA_TYPES

PATH = "/closed-form"

router = APIRouter(tags=["closed forms"], route_class=StrictRoute)

_RESPONSES = {
    **INVALID_BODY,
    **problem_documentation(
        status_400="the upload cannot be read",
        status_406="none of the accepted formats",
        status_408="the upload takes too long",
        status_503="other uploads take the memory that the server keeps for them",
    ),
    200: {"content": formats_documentation()},
}

_BODY = body_documentation(ClosedFormRequest, CLOSED_FORM_EXAMPLES) | {"parameters": [ACCEPT, *PICTURE_PARAMETERS]}
_BODY["requestBody"]["content"] |= upload_documentation()


@router.post(
    PATH,
    response_model=ClosedFormSpectrum,
    responses=_RESPONSES,
    openapi_extra=_BODY,
    summary="The whole Hessian spectrum of a network that has a formula",
)
async def compute_closed_form(request: Request) -> Response:
    """Eigenvalues with multiplicity and role, trace, sharpness, condition number and inertia, at once.

    The loss is (1/2n) sum_i |f(x_i) - y_i|^2; for self-attention it is the mean over positions and sequences, halved.
    On request also eigenvectors, and for `linear` the spectrum along gradient descent. Large arrays come as
    `application/x-npz` or `multipart/form-data` whose members are named like the fields, `w` or `model.w`. The answer
    is JSON, npz or a picture, by Accept.
    """
    name = require_format(request.headers.get("accept"))
    style = picture_style(request, name)
    sent_as = media_type(request.headers)
    heavy = service_context(request).heavy
    if sent_as == JSON:
        return _response(await _answer(await json_body(request), name, style, request), name)
    require_identity(request.headers)
    if sent_as not in UPLOAD_MEDIA_TYPES:
        raise unsupported_media_type(JSON, *UPLOAD_MEDIA_TYPES)
    async with service_context(request).upload_parser.parse(request, sent_as) as document:
        message = await run_in_threadpool(validated, ClosedFormRequest, document)
        return _response(await heavy.in_thread(request, represented, message, name, style), name)


async def _answer(body: bytes, name: str, style: Style, request: Request) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = read(body, ClosedFormRequest)
        if name == "json" and is_small(message, len(body)):
            return represented(message, name)
    heavy = service_context(request).heavy
    return (await heavy.do(request, "closed-form", {"name": name, "style": style.choices}, body)).content


def _response(content: bytes | memoryview, name: str) -> Response:
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})
