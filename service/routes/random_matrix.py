"""`POST /v1/random-matrix`."""

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from api_schemas.random_matrix import IndexCurveRequest, RandomMatrixAnswer, RandomMatrixRequest
from service.bodies import json_message
from service.formats.random_matrix import represented
from service.formats.representations import MEDIA_TYPES, require_format
from service.routes.content_type import require_json
from service.routes.documentation import (
    ACCEPT,
    INVALID_BODY,
    RANDOM_MATRIX_EXAMPLES,
    body_documentation,
    formats_documentation,
    problem_documentation,
)
from service.routes.picture_style import PICTURE_PARAMETERS, picture_style
from service.routes.strict_route import StrictRoute

router = APIRouter(tags=["random matrices"], route_class=StrictRoute)

_SAMPLES = CapacityLimiter(1)
"""A sample keeps a core busy for seconds and several matrices in memory: others wait, without a thread."""


@router.post(
    "/random-matrix",
    response_model=RandomMatrixAnswer,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_406="none of the accepted formats"),
        200: {"content": formats_documentation()},
    },
    openapi_extra=body_documentation(RandomMatrixRequest, RANDOM_MATRIX_EXAMPLES)
    | {"parameters": [ACCEPT, *PICTURE_PARAMETERS]},
    summary="A limiting eigenvalue law, or the index of the Hessian law against the energy",
)
async def compute_random_matrix(request: Request) -> Response:
    """Density, edges, masses, index, moments and transforms of a law, and on request a sample's eigenvalues beside it.

    `wigner`, `wishart`, `hessian` (the model of a two-layer network, activation `linear` or `relu`), `free-sum` of two
    of them; `index-curve`: the share of negative eigenvalues of `hessian` against the energy, for a list of ratios.
    The answer is JSON, npz or a picture, by Accept.
    """
    name = require_format(request.headers.get("accept"))
    style = picture_style(request, name)
    message = await json_message(request, RandomMatrixRequest)
    wanted = message.root
    if isinstance(wanted, IndexCurveRequest) or wanted.sample is None:
        content = await run_in_threadpool(represented, message, name, style)
    else:
        content = await anyio.to_thread.run_sync(represented, message, name, style, limiter=_SAMPLES)
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})
