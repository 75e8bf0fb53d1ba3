"""`POST /v1/random-matrix`."""

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from api_schemas.random_matrix import RandomMatrixAnswer, RandomMatrixRequest
from service.bodies import LARGE_BODY_BYTES, json_body, read
from service.formats.random_matrix import represented
from service.formats.representations import MEDIA_TYPES, require_format
from service.heavy.desk import HeavyDesk
from service.random_matrix import is_small
from service.routes.content_type import require_json
from service.routes.documentation import (
    INVALID_BODY,
    RANDOM_MATRIX_EXAMPLES,
    body_documentation,
    problem_documentation,
)

router = APIRouter(tags=["random matrices"])


@router.post(
    "/random-matrix",
    response_model=RandomMatrixAnswer,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_406="none of the accepted formats"),
        200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
    },
    openapi_extra=body_documentation(RandomMatrixRequest, RANDOM_MATRIX_EXAMPLES),
    summary="A limiting eigenvalue law, or the index of the Hessian law against the energy",
)
async def random_matrix(request: Request) -> Response:
    """Density, edges, masses, index, moments and transforms of a law, and on request a sample's eigenvalues beside it.

    `wigner`, `wishart`, `hessian` (the model of a two-layer network, activation `linear` or `relu`), `free-sum` of two
    of them; `index-curve`: the share of negative eigenvalues of `hessian` against the energy, for a list of ratios.
    The answer is JSON, npz or a picture, by Accept.
    """
    name = require_format(request.headers.get("accept"))
    content = await _answer(await json_body(request), name, request)
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})


async def _answer(body: bytes, name: str, request: Request) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = read(body, RandomMatrixRequest)
        if name == "json" and is_small(message):
            return await run_in_threadpool(represented, message, name)
    heavy: HeavyDesk = request.app.state.heavy
    return (await heavy.do(request, "random-matrix", {"name": name}, body)).content
