"""`/v1/models`: the checkpoints that this server can load."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from api_schemas.checkpoints import CHECKPOINT_NAME, CheckpointError, LoadableModel, ModelList, UnknownCheckpointError
from api_schemas.problem import Problem
from checkpoints.directory import ModelsDirectory
from service.problems import ProblemError
from service.routes.documentation import INVALID, problem_documentation
from service.routes.strict_route import StrictRoute

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)


@router.get(
    "",
    responses=problem_documentation(status_503="the models directory cannot be read"),
    summary="What this server can load",
)
def list_models(request: Request) -> ModelList:
    """Every checkpoint of the models directory; of those that cannot be loaded, why."""
    try:
        return ModelList(models=_directory(request).describe_all())
    except CheckpointError as error:
        problem = Problem(type="/problems/no-models", title="No models at the moment", status=503, detail=str(error))
        raise ProblemError(problem) from None


@router.get(
    "/{model_name}",
    responses={**INVALID, **problem_documentation(status_404="no such checkpoint")},
    summary="One checkpoint",
)
def get_model(
    model_name: Annotated[str, Path(pattern=CHECKPOINT_NAME, description="as in the list")], request: Request
) -> LoadableModel:
    """Its sizes and its digest, or why it cannot be loaded."""
    try:
        return _directory(request).describe(model_name)
    except UnknownCheckpointError as error:
        problem = Problem(type="/problems/unknown-model", title="No such model", status=404, detail=str(error))
        raise ProblemError(problem) from None


def _directory(request: Request) -> ModelsDirectory:
    directory: ModelsDirectory = request.app.state.models
    return directory
