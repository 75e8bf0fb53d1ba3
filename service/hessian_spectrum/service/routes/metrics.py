"""`/metrics`: metrics in the format of Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hessian_spectrum.service.context import Context
from hessian_spectrum.service.routes.parameters import StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.get("/metrics", include_in_schema=False)
def metrics(context: Context) -> Response:
    """Metrics of this service, and of all services and workers together."""
    return Response(generate_latest(context.metrics), media_type=CONTENT_TYPE_LATEST)
