"""`/v1/health`: whether the process lives, and whether it can do all that it is there for."""

from fastapi import APIRouter, Request

from api_schemas.health import Liveness, Readiness
from api_schemas.problem import Problem
from service.doors.callers import STRANGER, CallerOf
from service.observation.readiness import look
from service.problems import ProblemError
from service.routes.documentation import problem_documentation
from service.routes.strict_route import StrictRoute

router = APIRouter(prefix="/health", tags=["health"], route_class=StrictRoute)


@router.get("/live", summary="The process answers")
async def get_liveness() -> Liveness:
    """Always 200."""
    return Liveness()


@router.get(
    "/ready",
    responses=problem_documentation(status_503="something is missing; `missing` and `detail` name it"),
    summary="Closed forms and jobs are served",
)
def get_readiness(request: Request, caller: CallerOf) -> Readiness:
    """200 while Redis answers, a worker is there, results can be kept and checkpoints read; else `missing` says."""
    state = request.app.state
    workers, missing = look(state.redis, state.storage, state.settings)
    if missing:
        problem = Problem(
            type="/problems/not-ready", title="Not ready", status=503, detail="; ".join(missing), missing=missing
        )
        raise ProblemError(problem, {"Retry-After": "5"})
    return Readiness(workers=[] if caller is STRANGER else workers)
