"""`/v1/series`: the numbers along a training run, from all jobs that computed points of it."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.experiments.series import SERIES_NAME, SeriesResult
from hessian_spectrum.api_schemas.message import described
from hessian_spectrum.service.context import CurrentPrincipal, Service, service_context
from hessian_spectrum.service.request_parsing import (
    FIGURE_PARAMETERS,
    MEDIA_TYPES,
    ResultFormat,
    StrictRoute,
    chosen_options,
    figure_style,
    require_format,
)
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    INVALID,
    UNAVAILABLE,
    formats_documentation,
    problem_documentation,
)
from hessian_spectrum.storage.results import ResultDamagedError

router = APIRouter(prefix="/series", tags=["series"], responses=UNAVAILABLE, route_class=StrictRoute)

FILE_PATH = "/series/{series_name}/result.{name}"
"""Path of a series as a file."""

_NAME = described(SERIES_NAME, "must be the name of a series: letters, digits, dots, hyphens and underscores")

SeriesName = Annotated[str, Path(pattern=_NAME, description="The name that the jobs of the series gave.")]

_RESPONSES = {
    **INVALID,
    **problem_documentation(
        status_404="No job of this series has a result.", status_406="The series has none of the accepted formats."
    ),
    200: {"content": formats_documentation()},
}


@router.get(
    "/{series_name}",
    response_model=SeriesResult,
    responses=_RESPONSES,
    openapi_extra={"parameters": [ACCEPT, *FIGURE_PARAMETERS]},
    summary="The numbers along a training run",
)
async def get_series(series_name: SeriesName, request: Request, service: Service, caller: CurrentPrincipal) -> Response:
    """The points of the jobs of this name that have a result and measure what the newest one does.

    Jobs with different methods complete one another. If two jobs with one method have the same step, the later one
    counts unless it failed there; jobs with other settings of the method are in `other_jobs`. The formats are those of
    the result of a job. The document is computed anew for each request, and the npz file holds the table and the
    document; eigenvectors are in the results of the jobs, whose ids each point names.
    """
    name = require_format(request.headers.get("accept"))
    return await _response(series_name, name, request=request, service=service, caller=caller)


@router.get(
    FILE_PATH.removeprefix(router.prefix),
    response_model=SeriesResult,
    responses=_RESPONSES,
    openapi_extra={"parameters": FIGURE_PARAMETERS},
    summary="The numbers along a training run as a file",
)
async def get_series_file(
    series_name: SeriesName, name: ResultFormat, request: Request, service: Service, caller: CurrentPrincipal
) -> Response:
    """`result.json`, `result.npz`, `result.csv`, `result.png`, `result.svg` or `result.pdf`."""
    return await _response(series_name, name, request=request, service=service, caller=caller)


async def _response(
    series_name: str, name: ResultFormat, *, request: Request, service: Service, caller: CurrentPrincipal
) -> Response:
    style = figure_style(request, name)
    jobs = await run_in_threadpool(service.series, series_name, caller)
    context = service_context(request)
    arguments = {
        "results_dir": str(context.settings.results_dir),
        "storage_url": context.settings.storage_url,
        "jobs": jobs,
        "name": name,
        "style": chosen_options(style),
    }
    reply = await context.executor.run(request, "series", arguments=arguments)
    if "damaged" in reply.fields:
        raise ResultDamagedError(reply.fields["damaged"])
    headers = {"Cache-Control": "private, no-cache", "Vary": "Accept"}
    return Response(reply.content, media_type=MEDIA_TYPES[name], headers=headers)
