"""The results of experiments, made of the outcomes of their points."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hessian_spectrum.api_schemas.experiments import EXPERIMENTS, ExperimentRequest
from hessian_spectrum.api_schemas.experiments.figure import FigureRequest, FigureResult
from hessian_spectrum.api_schemas.experiments.kind import common_fields
from hessian_spectrum.api_schemas.experiments.series import (
    Overlap,
    Overlaps,
    SeriesEntry,
    SeriesPoint,
    SeriesRequest,
    SeriesResult,
)
from hessian_spectrum.api_schemas.figures import FIGURES, Measurement
from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.matrices import matrix_name
from hessian_spectrum.api_schemas.methods import TopKResult
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.curvature.algorithms.eigenspaces import LeadingPairs, SpaceOverlap, overlaps
from hessian_spectrum.results.arrays import Arrays
from hessian_spectrum.worker.experiments.point_list import PointOutcome
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.figures.measurement import content_of


def experiment_output(request: ExperimentRequest, outcomes: Sequence[PointOutcome]) -> JobOutput:
    """Return the result of an experiment.

    Args:
        request: The request.
        outcomes: The outcomes of its points, in order.

    Returns:
        The result, and the arrays of its points with `point_<index>_` before their names.
    """
    make = _OUTPUTS.get(request.kind)
    return _spectra_output(request, outcomes) if make is None else make(request, outcomes)


def _spectra_output(request: ExperimentRequest, outcomes: Sequence[PointOutcome]) -> JobOutput:
    result = EXPERIMENTS[request.kind].result_of(request, [outcome.result for outcome in outcomes])
    return JobOutput(result, _point_arrays(outcomes))


def _point_arrays(outcomes: Sequence[PointOutcome]) -> Arrays:
    return {
        f"point_{index}_{name}": array
        for index, outcome in enumerate(outcomes)
        for name, array in outcome.arrays.items()
    }


def _series_output(request: SeriesRequest, outcomes: Sequence[PointOutcome]) -> JobOutput:
    """Return the numbers at each step, with the overlaps of leading eigenvectors from each step to the next."""
    results = [outcome.result for outcome in outcomes]
    entries = [_entry(point, result) for point, result in zip(request.ordered_points, results, strict=True)]
    leading = [_leading_pairs(result, outcome) for result, outcome in zip(results, outcomes, strict=True)]
    for index, ((before, earlier), (entry, pairs)) in enumerate(pairwise(zip(entries, leading, strict=True)), 1):
        if earlier is not None and pairs is not None and len(earlier.eigenvalues) == len(pairs.eigenvalues):
            entries[index] = entry.model_copy(update={"overlaps": _overlaps(before.step, earlier, pairs)})
    result = SeriesResult(
        name=request.name,
        matrix=matrix_name(request.matrix),
        settings_sha256=request.settings_sha256,
        methods={request.method.kind: request.method_sha256},
        points=entries,
        **common_fields(results),
    )
    return JobOutput(result, _point_arrays(outcomes))


def _entry(point: SeriesPoint, result: MethodResult | Problem) -> SeriesEntry:
    rate = point.learning_rate
    fields: dict[str, Any] = {"step": point.step, "learning_rate": rate}
    fields["stability_threshold"] = None if rate is None else 2 / rate
    fields["parameters_sha256"] = point.checkpoint_sha256 if point.parameters is None else point.parameters.id
    if isinstance(result, Problem):
        return SeriesEntry(**fields, problem=result.detail or result.title)
    own = {name: getattr(result, name) for name in type(result).model_fields if name in SeriesEntry.model_fields}
    return SeriesEntry(**fields | own | dict(headlines(result)))


def _leading_pairs(result: MethodResult | Problem, outcome: PointOutcome) -> LeadingPairs | None:
    """Return the largest eigenvalues with their vectors, if the point has them."""
    vectors = outcome.arrays.get("eigenvectors")
    if vectors is None or not isinstance(result, TopKResult) or result.which not in ("largest", "both-ends"):
        return None
    num_pairs = len(result.eigenpairs)
    pairs = result.eigenpairs[: num_pairs if result.which == "largest" else (num_pairs + 1) // 2]
    values, residuals = np.array([pair.value for pair in pairs]), np.array([pair.residual for pair in pairs])
    return LeadingPairs(values, residuals, np.asarray(vectors)[: len(pairs)])


def _overlaps(step: int, first: LeadingPairs, second: LeadingPairs) -> Overlaps:
    return Overlaps(since_step=step, spaces=[_overlap(each) for each in overlaps(first, second)])


def _overlap(space: SpaceOverlap) -> Overlap:
    if space.error is None:
        return Overlap(size=space.size, value=space.value, why="the gap to the next eigenvalue is not known")
    lower, upper = max(0.0, space.value - space.error), min(1.0, space.value + space.error)
    return Overlap(size=space.size, value=space.value, lower=lower, upper=upper)


def _figure_output(request: FigureRequest, outcomes: Sequence[PointOutcome]) -> JobOutput:
    """Return the figure, and the arrays of its measurements."""
    figure, measured = FIGURES[request.figure], [outcome.measured for outcome in outcomes]
    content = content_of(request.figure, request.chosen, measured)
    costs = [each.cost for each in request.computations if isinstance(each, Measurement)]
    result = FigureResult(
        figure=figure.name,
        title=figure.title,
        source=figure.source,
        scale=request.scale,
        parameters=request.chosen.model_dump(),
        points=[dict(row) for row in content.points],
        panels=list(content.panels),
        verdicts=list(content.verdicts),
        choices=list(content.choices),
        wall_time_seconds=sum(outcome.wall_time_seconds for outcome in outcomes),
        num_parameters=max(cost.num_parameters for cost in costs),
        provenance=[],
    )
    return JobOutput(result, _point_arrays(outcomes) | content.arrays)


_OUTPUTS: dict[str, Callable[[Any, Sequence[PointOutcome]], JobOutput]] = {
    "figure": _figure_output,
    "series": _series_output,
}
"""Makes the result of an experiment, where it needs more than the results of spectra."""
