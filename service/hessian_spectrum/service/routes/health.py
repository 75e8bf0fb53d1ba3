"""`/v1/health`: liveness of the process, and readiness of everything that it needs."""

from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter

from hessian_spectrum.api_schemas.health import Liveness, Readiness
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import UNAUTHENTICATED
from hessian_spectrum.service.context import Context, CurrentPrincipal
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.routes.documentation import problem_documentation
from hessian_spectrum.service.routes.parameters import StrictRoute
from hessian_spectrum.service.telemetry.readiness import look

router = APIRouter(prefix="/health", tags=["health"], route_class=StrictRoute)

_LOOKS = CapacityLimiter(8)
"""Threads of their own: whoever asks whether the server is well waits for no other request."""


@router.get("/live", summary="Check that the process is alive")
async def get_liveness() -> Liveness:
    """Always 200 while the process answers requests."""
    return Liveness()


@router.get(
    "/ready",
    responses=problem_documentation(status_503="Something is missing; `missing` and `detail` name it."),
    summary="Check that closed forms and jobs are served",
)
async def get_readiness(context: Context, principal: CurrentPrincipal) -> Readiness:
    """200 if Redis answers, a worker is present, results can be stored and checkpoints read; else see `missing`."""
    stores = context.stores
    look_at_all = partial(look, stores.redis, stores.identity, context.settings)
    workers, missing = await anyio.to_thread.run_sync(look_at_all, limiter=_LOOKS)
    if missing:
        problem = Problem(
            type="/problems/not-ready", title="Not ready", status=503, detail="; ".join(missing), missing=missing
        )
        raise ProblemError(problem, {"Retry-After": "5"})
    return Readiness(workers=[] if principal is UNAUTHENTICATED else workers)
