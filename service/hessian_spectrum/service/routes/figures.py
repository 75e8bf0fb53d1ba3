"""`/v1/figures`: the figures of the sources that jobs compute."""

from functools import cache
from typing import get_args

from fastapi import APIRouter

from hessian_spectrum.api_schemas.experiments.figure import (
    FigureDescription,
    FigureEstimate,
    FigureList,
    FigureRequest,
)
from hessian_spectrum.api_schemas.figures import FIGURES, Figure, Scale
from hessian_spectrum.jobs.plans import plan_job
from hessian_spectrum.service.request_parsing import StrictRoute

router = APIRouter(prefix="/figures", tags=["figures"], route_class=StrictRoute)


@router.get("", summary="List the figures that jobs compute")
def list_figures() -> FigureList:
    """Every figure with its source, its parameters, and its cost at the sizes of the source and at smaller ones."""
    return _figures()


@cache
def _figures() -> FigureList:
    return FigureList(figures=[_described(figure) for figure in FIGURES.values()])


def _described(figure: Figure) -> FigureDescription:
    return FigureDescription(
        figure=figure.name,
        title=figure.title,
        source=figure.source,
        parameters=figure.parameters.model_json_schema(),
        quick=dict(figure.quick),
        estimates={scale: _estimate(figure, scale) for scale in get_args(Scale)},
    )


def _estimate(figure: Figure, scale: Scale) -> FigureEstimate:
    request = FigureRequest(kind="figure", figure=figure.name, scale=scale)
    whole = plan_job(request).whole
    return FigureEstimate(
        num_points=len(request.computations),
        num_parameters=whole.num_parameters,
        peak_bytes=whole.peak_bytes,
        seconds=request.seconds,
    )
