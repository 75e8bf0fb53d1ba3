"""`/v1/health`: whether the process lives, and whether it can do all that it is there for."""

from fastapi import APIRouter, Request
from redis.exceptions import RedisError

from api_schemas.health import Liveness, Readiness, WorkerStatus
from api_schemas.problem import Problem
from jobs.presence import present_workers
from service.callers import STRANGER, CallerOf
from service.problems import ProblemError
from service.routes.documentation import problem_documentation

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="The process answers")
async def live() -> Liveness:
    """Always 200."""
    return Liveness()


@router.get(
    "/ready",
    responses=problem_documentation(status_503="something is missing; `detail` names it"),
    summary="Closed forms and jobs are served",
)
def ready(request: Request, caller: CallerOf) -> Readiness:
    """200 while Redis answers and at least one worker is there."""
    workers = _workers(request)
    return Readiness(workers=[] if caller is STRANGER else workers)


def _workers(request: Request) -> list[WorkerStatus]:
    try:
        workers = present_workers(request.app.state.redis)
    except RedisError:
        raise _not_ready("redis does not answer") from None
    if not workers:
        raise _not_ready("no worker is there")
    return workers


def _not_ready(missing: str) -> ProblemError:
    problem = Problem(type="/problems/not-ready", title="Not ready", status=503, detail=missing)
    return ProblemError(problem, {"Retry-After": "5"})
