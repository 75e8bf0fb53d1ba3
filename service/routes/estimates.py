"""`/v1/estimates`: what a job would take."""

from typing import Annotated

from fastapi import APIRouter, Depends

from api_schemas.estimates import CostEstimate
from api_schemas.job_requests import AnyJobRequest, JobRequest
from service.admission import Admission
from service.routes.content_type import require_json
from service.routes.documentation import INVALID_BODY, JOB_EXAMPLES, UNAVAILABLE, body_documentation
from service.routes.jobs import get_admission, job_request
from service.routes.strict_route import StrictRoute

router = APIRouter(prefix="/estimates", tags=["jobs"], responses=UNAVAILABLE, route_class=StrictRoute)


@router.post(
    "",
    dependencies=[Depends(require_json)],
    responses=INVALID_BODY,
    openapi_extra=body_documentation(JobRequest, JOB_EXAMPLES),
    summary="What a job would take",
)
def estimate_job(
    body: Annotated[AnyJobRequest, Depends(job_request)],
    admission: Annotated[Admission, Depends(get_admission)],
) -> CostEstimate:
    """Memory, products and micro-batches of the same body as `POST /v1/jobs`; nothing is queued."""
    return admission.estimated(body)
