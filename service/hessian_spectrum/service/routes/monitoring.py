"""`/v1/health`, `/v1/version` and `/metrics`: whether the server is well, which release it is, and its metrics."""

from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hessian_spectrum.api_schemas.health import Liveness, Readiness
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.version import Version, __version__
from hessian_spectrum.jobs.fingerprints import protocol_version
from hessian_spectrum.service.auth import UNAUTHENTICATED
from hessian_spectrum.service.context import CurrentPrincipal, service_context
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.request_parsing import StrictRoute
from hessian_spectrum.service.routes.documentation import problem_documentation
from hessian_spectrum.service.telemetry.readiness import look

router = APIRouter(tags=["health"], route_class=StrictRoute)
metrics_router = APIRouter(route_class=StrictRoute)

_HEALTH_CHECKS = CapacityLimiter(8)
"""Thread limit of health checks alone, so that they wait for no other request."""


@router.get("/health/live", summary="Check that the process is alive")
async def get_liveness() -> Liveness:
    """Always 200 while the process answers requests."""
    return Liveness()


@router.get(
    "/health/ready",
    responses=problem_documentation(status_503="Something is missing; `missing` and `detail` name it."),
    summary="Check that closed forms and jobs are served",
)
async def get_readiness(request: Request, principal: CurrentPrincipal) -> Readiness:
    """200 if Redis answers, a worker is present, results can be stored and checkpoints read; else see `missing`."""
    context = service_context(request)
    stores = context.stores
    check_all = partial(look, stores.redis, stores.identity, context.settings)
    workers, missing = await anyio.to_thread.run_sync(check_all, limiter=_HEALTH_CHECKS)
    if missing:
        problem = Problem(
            type="/problems/not-ready", title="Not ready", status=503, detail="; ".join(missing), missing=missing
        )
        raise ProblemError(problem, {"Retry-After": "5"})
    return Readiness(workers=[] if principal is UNAUTHENTICATED else workers)


@router.get("/version", summary="Get the release of the server")
async def get_version() -> Version:
    """The release and a hash of its source; no key is needed."""
    return Version(version=__version__, code_version=await anyio.to_thread.run_sync(protocol_version))


@metrics_router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Metrics of this service, and of all services and workers together."""
    return Response(generate_latest(service_context(request).metrics), media_type=CONTENT_TYPE_LATEST)
