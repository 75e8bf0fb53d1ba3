"""`/v1/models`: the checkpoints that this server can load."""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool

from api_schemas.checkpoints import CHECKPOINT_NAME, CheckpointError, LoadableModel, ModelList, UnknownCheckpointError
from api_schemas.problem import Problem
from checkpoints.directory import LARGE_HEADER_BYTES, ModelsDirectory
from service.problems import ProblemError
from service.routes.documentation import INVALID, problem_documentation

router = APIRouter(prefix="/models", tags=["models"])


@router.get(
    "",
    responses=problem_documentation(status_503="the models directory cannot be read"),
    summary="What this server can load",
)
async def list_models(request: Request) -> ModelList:
    """Every checkpoint of the models directory; of those that cannot be loaded, why."""
    models = _directory(request)
    try:
        for name in await run_in_threadpool(models.names):
            await _describe_if_large(request, name)
        return ModelList(models=await run_in_threadpool(models.describe_all))
    except CheckpointError as error:
        problem = Problem(type="/problems/no-models", title="No models at the moment", status=503, detail=str(error))
        raise ProblemError(problem) from None


@router.get(
    "/{model_name}",
    responses={**INVALID, **problem_documentation(status_404="no such checkpoint")},
    summary="One checkpoint",
)
async def get_model(
    model_name: Annotated[str, Path(pattern=CHECKPOINT_NAME, description="as in the list")], request: Request
) -> LoadableModel:
    """Its sizes and its digest, or why it cannot be loaded."""
    try:
        await _describe_if_large(request, model_name)
        return await run_in_threadpool(_directory(request).describe, model_name)
    except UnknownCheckpointError as error:
        problem = Problem(type="/problems/unknown-model", title="No such model", status=404, detail=str(error))
        raise ProblemError(problem) from None


async def _describe_if_large(request: Request, name: str) -> None:
    """Have a checkpoint described, in turn, of which that is heavy work and not done."""
    models, heavy = _directory(request), request.app.state.heavy
    with contextlib.suppress(CheckpointError):  # of which `describe` says what it is
        if await run_in_threadpool(_is_work, models, name):
            state = await run_in_threadpool(models.state, name)
            arguments = {"models_dir": str(request.app.state.settings.models_dir), "name": name}
            reply = await heavy.do(request, "model", arguments)
            models.remember(name, state, LoadableModel.model_validate_json(bytes(reply.content)))


def _is_work(models: ModelsDirectory, name: str) -> bool:
    return models.num_header_bytes(name) > LARGE_HEADER_BYTES and not models.is_described(name)


def _directory(request: Request) -> ModelsDirectory:
    directory: ModelsDirectory = request.app.state.models
    return directory
