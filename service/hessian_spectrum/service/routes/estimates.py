"""`POST /v1/estimates`: the cost of a job without queueing it."""

from typing import Annotated

from fastapi import APIRouter, Depends

from hessian_spectrum.api_schemas.jobs import CostEstimate, JobRequest
from hessian_spectrum.service.admission import estimate_of_body
from hessian_spectrum.service.request_parsing import StrictRoute, require_json
from hessian_spectrum.service.routes.documentation import INVALID_BODY, JOB_EXAMPLES, UNAVAILABLE, body_documentation

router = APIRouter(prefix="/estimates", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)


@router.post(
    "",
    dependencies=[Depends(require_json)],
    responses=INVALID_BODY,
    openapi_extra=body_documentation(JobRequest, JOB_EXAMPLES),
    summary="Estimate the cost of a job",
)
async def estimate_job(estimate: Annotated[CostEstimate, Depends(estimate_of_body)]) -> CostEstimate:
    """Memory, products and micro-batches of a job with the same body as `POST /v1/jobs`, without queueing it."""
    return estimate
