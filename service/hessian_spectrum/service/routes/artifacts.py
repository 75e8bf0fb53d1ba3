"""`/v1/artifacts`: files that are uploaded once and named by jobs."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArtifactPage
from hessian_spectrum.api_schemas.message import SHA256
from hessian_spectrum.service.context import Artifacts, service_context
from hessian_spectrum.service.headers import media_type
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.request_parsing import (
    PageToken,
    StrictRoute,
    decode_page_token,
    encode_page_token,
    require_identity,
    unsupported_media_type,
)
from hessian_spectrum.service.routes.documentation import ARTIFACT_UPLOAD, INVALID, problem_documentation
from hessian_spectrum.service.uploads.artifact_upload import (
    ARRAY_MEDIA_TYPES,
    PROGRAM_MEDIA_TYPES,
    TOKEN_MEDIA_TYPES,
    spooled,
    store_arrays,
    store_program,
    store_tokens,
)
from hessian_spectrum.service.uploads.file_kinds import NPY

PATH = "/artifacts"
MEDIA_TYPES = (*TOKEN_MEDIA_TYPES, *ARRAY_MEDIA_TYPES, *PROGRAM_MEDIA_TYPES)

router = APIRouter(prefix=PATH, tags=["artifacts"], route_class=StrictRoute)

ArrayName = Annotated[
    str | None, Query(min_length=1, max_length=128, description="Name of the array of a `.npy` file, such as x or y.")
]

ArtifactId = Annotated[str, Path(pattern=SHA256, description="The id that the upload returned.")]

_DISK = problem_documentation(status_503="The results directory is missing or cannot be written.")
_UNKNOWN = {**INVALID, **_DISK, **problem_documentation(status_404="There is no such artifact.")}
_RESPONSES = {
    **INVALID,
    **problem_documentation(
        status_400="The upload ends too early, or is not a file of its media type.",
        status_408="The upload takes too long.",
        status_413="The file is too large.",
        status_415="The media type is not supported.",
        status_503="Other uploads take the memory for inflated arrays, or the results directory cannot be written.",
        status_507="The disk has no room for the file.",
    ),
    200: {"model": AnyArtifact, "description": "The caller has uploaded the same tokens or arrays before."},
}


@router.post(
    "",
    status_code=201,
    response_model=AnyArtifact,
    responses=_RESPONSES,
    openapi_extra=ARTIFACT_UPLOAD,
    summary="Upload a file of tokens, of arrays, or with a network",
)
async def upload_artifact(request: Request, artifacts: Artifacts, name: ArrayName = None) -> Response:
    """Upload a file of tokens, of arrays, or with a network as the body.

    Tokens: nanoGPT's `.bin` (uint16, little-endian), or a `.npy` array of integers in one dimension.
    Arrays: safetensors or npz with the weights of an `mlp`, called `layers.0.weight`, `layers.0.bias` and so on, or
    with data, called `x` and `y`; or one `.npy` array of data, as `?name=x`.
    Networks: a program of torch.export (`.pt2`), or an ONNX file of operators of version 17 or newer without functions,
    branches, loops or data in other files.

    Jobs name the artifact by its id, as `{"kind": "artifact", "id": ...}`. Equal tokens or equal arrays have the same
    id, whatever file they came in.
    """
    content_type = media_type(request.scope)
    require_identity(request.scope)
    if content_type not in MEDIA_TYPES:
        raise unsupported_media_type(*MEDIA_TYPES)
    if name is not None and content_type != NPY:
        raise invalid_field(("name",), f"is for an array sent as {NPY}; arrays in other files have their own names")
    async with spooled(request, artifacts) as file:
        if content_type in TOKEN_MEDIA_TYPES and name is None:
            artifact, is_new = await run_in_threadpool(store_tokens, file, artifacts, content_type)
        else:
            budget = service_context(request).upload_budget
            is_program = content_type in PROGRAM_MEDIA_TYPES
            store = store_program if is_program else partial(store_arrays, name=name or "")
            artifact, is_new = await run_in_threadpool(store, file, artifacts, media_type=content_type, budget=budget)
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
    """One page of the caller's artifacts, or of all for an admin; `next_page_token` leads to the next page."""
    listed, last = artifacts.page(page_size, decode_page_token(page_token))
    return ArtifactPage(artifacts=listed, next_page_token=encode_page_token(last) if last else None)


@router.get("/{artifact_id}", responses=_UNKNOWN, summary="Describe an uploaded file")
def get_artifact(artifact_id: ArtifactId, artifacts: Artifacts) -> AnyArtifact:
    """The number of tokens and the largest one, or shape and type of each array; the file cannot be downloaded."""
    return artifacts.get(artifact_id)


@router.delete("/{artifact_id}", status_code=204, responses=_UNKNOWN, summary="Delete an uploaded file")
def delete_artifact(artifact_id: ArtifactId, artifacts: Artifacts) -> None:
    """Waiting jobs that name the artifact will fail, unless another caller has uploaded the same file."""
    artifacts.delete(artifact_id)
