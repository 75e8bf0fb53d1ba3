"""`/v1/models`: the checkpoints that this server can load."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.checkpoints import (
    CHECKPOINT_NAME,
    CheckpointError,
    LoadableModel,
    ModelList,
    UnknownCheckpointError,
)
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.request_parsing import StrictRoute
from hessian_spectrum.service.routes.documentation import INVALID, problem_documentation

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)


@router.get(
    "",
    responses=problem_documentation(status_503="The models directory cannot be read."),
    summary="List the checkpoints that the server can load",
)
async def list_models(request: Request) -> ModelList:
    """Every checkpoint of the models directory, with the reason where one cannot be loaded."""
    context = service_context(request)
    models = context.models
    try:
        for name in await run_in_threadpool(models.names):
            await context.descriptions.make(request, name)
        return ModelList(models=await run_in_threadpool(models.describe_all))
    except CheckpointError as error:
        problem = Problem(type="/problems/no-models", title="The models are unavailable", status=503, detail=str(error))
        raise ProblemError(problem) from None


@router.get(
    "/{model_name:path}",
    responses={**INVALID, **problem_documentation(status_404="There is no such checkpoint.")},
    summary="Describe one checkpoint",
)
async def get_model(
    model_name: Annotated[str, Path(pattern=CHECKPOINT_NAME, description="The name of the checkpoint as in the list.")],
    request: Request,
) -> LoadableModel:
    """Sizes and digest of the checkpoint, or the reason why it cannot be loaded."""
    context = service_context(request)
    try:
        await context.descriptions.make(request, model_name)
        return await run_in_threadpool(context.models.describe, model_name)
    except UnknownCheckpointError as error:
        problem = Problem(type="/problems/unknown-model", title="No such model", status=404, detail=str(error))
        raise ProblemError(problem) from None
