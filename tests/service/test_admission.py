"""Admission of figures by their predicted time: a GPU may shorten only what can use one."""

import inspect
from typing import Any, cast

import pytest

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.service.admission import Admission
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.artifact_service import ArtifactService
from hessian_spectrum.worker.figures.measurement import measures

WITH_GPT2 = {f"cracking-{number}" for number in (5, 6, 23, 24, 25)}


def refusal(request: FigureRequest, job_seconds: float) -> tuple[Any, ...] | None:
    """Location of the field that is named where the job is refused; None where it is accepted."""
    try:
        Admission(lambda: None, cast(ArtifactService, None), job_seconds).check(request)
    except ProblemError as error:
        return tuple(part for wrong in error.problem.errors or () for part in wrong.loc)
    return None


def requested(figure: str, **fields: Any) -> FigureRequest:
    return FigureRequest.model_validate({"kind": "figure", "figure": figure} | fields)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_beyond_the_limit_is_accepted_only_if_a_gpu_may_compute_it(figure: str) -> None:
    request = requested(figure)
    expected = None if figure in WITH_GPT2 else ("body", "scale")
    assert refusal(request, request.seconds / 5) == expected
    assert refusal(request, request.seconds) is None
    assert refusal(request, request.seconds / 2500) == ("body", "scale")
    limited = requested(figure, time_limit_seconds=request.seconds / 5)
    assert refusal(limited, 7 * 86400.0) == expected


@pytest.mark.parametrize("figure", FIGURES)
def test_measurements_can_use_a_gpu_where_they_are_computed_on_the_worker_s_device(figure: str) -> None:
    """A measurement whose module never names the hardware of the worker does not know of its GPU."""
    for measurement in requested(figure).computations:
        module = inspect.getmodule(measures()[type(measurement)])  # type: ignore[index]
        assert measurement.can_use_gpu == ("hardware" in inspect.getsource(module))  # type: ignore[arg-type, union-attr]
