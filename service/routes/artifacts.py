"""`/v1/artifacts`: files that jobs name, uploaded once."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api_schemas.artifacts import AnyArtifact, ArtifactPage
from api_schemas.patterns import SHA256
from service.content_type import media_type, require_identity, unsupported_media_type
from service.doors.callers import CallerOf
from service.page_tokens import PageToken, id_of_token, token_of_id
from service.routes.documentation import ARTIFACT_UPLOAD, INVALID, problem_documentation
from service.routes.strict_route import StrictRoute
from service.uploads.arrays import ARRAY_MEDIA_TYPES, store_arrays
from service.uploads.callers_artifacts import CallersArtifacts
from service.uploads.drafts import received
from service.uploads.tokens import TOKEN_MEDIA_TYPES, store_tokens

PATH = "/artifacts"
MEDIA_TYPES = (*TOKEN_MEDIA_TYPES, *ARRAY_MEDIA_TYPES)

router = APIRouter(prefix=PATH, tags=["artifacts"], route_class=StrictRoute)

ArtifactId = Annotated[str, Path(pattern=SHA256, description="the id that the upload returned")]

_DISK = problem_documentation(status_503="the directory of results is gone, or cannot be written")
_UNKNOWN = {**INVALID, **_DISK, **problem_documentation(status_404="no such artifact")}
_RESPONSES = {
    **INVALID,
    **problem_documentation(
        status_400="the upload ends too early, or is no such file",
        status_408="the upload takes too long",
        status_413="the file is too large",
        status_415="none of the media types",
        status_503="other uploads take the memory for inflated arrays, or the directory of results cannot be written",
        status_507="there is no room for the file",
    ),
    200: {"model": AnyArtifact, "description": "the caller has sent the same tokens or arrays before"},
}


async def callers_artifacts(request: Request, caller: CallerOf) -> CallersArtifacts:
    """What of the uploaded files is the caller's."""
    state = request.app.state
    most, number = state.uploads_bytes, state.settings.max_artifacts
    return CallersArtifacts(state.artifacts, state.artifact_owners, caller, max_bytes=most, max_number=number)


Artifacts = Annotated[CallersArtifacts, Depends(callers_artifacts)]


@router.post(
    "",
    status_code=201,
    response_model=AnyArtifact,
    responses=_RESPONSES,
    openapi_extra=ARTIFACT_UPLOAD,
    summary="Upload a file of tokens or of arrays",
)
async def upload_artifact(request: Request, artifacts: Artifacts) -> Response:
    """The body is the file. Tokens: nanoGPT's `.bin` (uint16, little-endian), or a `.npy` array of integers in one
    dimension. Arrays: safetensors or npz with the weights of an `mlp`, called `layers.0.weight`, `layers.0.bias` and so
    on, or with data, called `x` and `y`.

    Jobs name it by its id, as `{"kind": "artifact", "id": ...}`. The same tokens, or the same arrays, always have the
    same id, whatever file they came in.
    """
    sent_as = media_type(request.headers)
    require_identity(request.headers)
    if sent_as not in MEDIA_TYPES:
        raise unsupported_media_type(*MEDIA_TYPES)
    async with received(request, artifacts) as file:
        if sent_as in TOKEN_MEDIA_TYPES:
            artifact, is_new = await run_in_threadpool(store_tokens, file, artifacts, sent_as)
        else:
            memory, owner = request.app.state.uploads.memory, request.state.caller.owner
            artifact, is_new = await run_in_threadpool(store_arrays, file, artifacts, sent_as, memory, owner)
    location = str(request.url_for("get_artifact", artifact_id=artifact.id))
    return Response(
        artifact.model_dump_json(),
        status_code=201 if is_new else 200,
        media_type="application/json",
        headers={"Location": location},
    )


@router.get("", responses={**INVALID, **_DISK}, summary="List uploaded files, newest first")
def list_artifacts(
    artifacts: Artifacts,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: PageToken = None,
) -> ArtifactPage:
    """One page of the caller's artifacts, of an admin's everyone's; `next_page_token` leads to the next."""
    found, last = artifacts.page(page_size, id_of_token(page_token))
    return ArtifactPage(artifacts=found, next_page_token=token_of_id(last) if last else None)


@router.get("/{artifact_id}", responses=_UNKNOWN, summary="What an uploaded file holds")
def get_artifact(artifact_id: ArtifactId, artifacts: Artifacts) -> AnyArtifact:
    """Number of tokens and the largest, or what each array is; the file itself is not handed out."""
    return artifacts.get(artifact_id)


@router.delete("/{artifact_id}", status_code=204, responses=_UNKNOWN, summary="Delete an uploaded file")
def delete_artifact(artifact_id: ArtifactId, artifacts: Artifacts) -> None:
    """Jobs that still wait and name it fail, and say so, unless somebody else has uploaded the same."""
    artifacts.delete(artifact_id)
