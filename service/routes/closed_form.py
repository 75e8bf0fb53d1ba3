"""`POST /v1/closed-form`."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends
from starlette.concurrency import run_in_threadpool

from api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum
from service.closed_form import SMALL_REQUEST_NUMBERS, answer, num_numbers
from service.routes.content_type import require_json
from service.routes.documentation import CLOSED_FORM_EXAMPLES, INVALID_BODY

router = APIRouter(tags=["closed forms"])


@router.post(
    "/closed-form",
    dependencies=[Depends(require_json)],
    responses=INVALID_BODY,
    summary="The whole Hessian spectrum of a network that has a formula",
)
async def closed_form(
    request: Annotated[ClosedFormRequest, Body(openapi_examples=CLOSED_FORM_EXAMPLES)],
) -> ClosedFormSpectrum:
    """Eigenvalues with multiplicity and role, trace, sharpness, condition number and inertia, at once.

    The loss is (1/2n) sum_i |f(x_i) - y_i|^2; for self-attention it is the mean over positions and sequences, halved.
    """
    if num_numbers(request) > SMALL_REQUEST_NUMBERS:
        return await run_in_threadpool(answer, request)
    return answer(request)
