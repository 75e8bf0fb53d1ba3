"""`POST /v1/random-matrix`: limiting laws of random matrices."""

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.random_matrix import RandomMatrixAnswer, RandomMatrixRequest
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.plots.figure import FigureStyle
from hessian_spectrum.service.random_matrix import is_small, render
from hessian_spectrum.service.request_body import LARGE_BODY_BYTES, json_body, parse_body, require_json
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    INVALID_BODY,
    RANDOM_MATRIX_EXAMPLES,
    body_documentation,
    formats_documentation,
    problem_documentation,
)
from hessian_spectrum.service.routes.parameters import (
    FIGURE_PARAMETERS,
    MEDIA_TYPES,
    StrictRoute,
    figure_style,
    require_format,
)

router = APIRouter(tags=["random matrices"], route_class=StrictRoute)


@router.post(
    "/random-matrix",
    response_model=RandomMatrixAnswer,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_406="The response has none of the accepted formats."),
        200: {"content": formats_documentation()},
    },
    openapi_extra=body_documentation(RandomMatrixRequest, RANDOM_MATRIX_EXAMPLES)
    | {"parameters": [ACCEPT, *FIGURE_PARAMETERS]},
    summary="A limiting eigenvalue law, or the index of the Hessian law against the energy",
)
async def compute_random_matrix(request: Request) -> Response:
    """Density, edges, masses, index, moments and transforms of a law, and on request a sample's eigenvalues beside it.

    `wigner`, `wishart`, `hessian` (the model of a two-layer network, activation `linear` or `relu`), `free-sum` of two
    of them; `index-curve`: the share of negative eigenvalues of `hessian` against the energy, for a list of ratios.
    The answer is JSON, npz or a picture, by Accept.
    """
    name = require_format(request.headers.get("accept"))
    style = figure_style(request, name)
    content = await _render(await json_body(request), name, style, request)
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})


async def _render(body: bytes, name: str, style: FigureStyle, request: Request) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = parse_body(body, RandomMatrixRequest)
        if name == "json" and is_small(message):
            return await run_in_threadpool(render, message, name)
    executor = service_context(request).executor
    return (await executor.run(request, "random-matrix", {"name": name, "style": style.choices}, body)).content
