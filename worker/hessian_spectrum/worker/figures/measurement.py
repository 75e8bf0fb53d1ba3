"""Measurements at the points of figures, and what is made of them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import isfinite
from typing import Any

from hessian_spectrum.api_schemas.figures.kind import FigureParameters, Measurement
from hessian_spectrum.api_schemas.figures.results import Cell, Choice, Panel, Verdict
from hessian_spectrum.curvature.iteration import NO_CHECKPOINTS, Checkpointer, Progress, ignore_progress
from hessian_spectrum.planning.registry import merged
from hessian_spectrum.results.arrays import Arrays
from hessian_spectrum.worker.builders import NO_INPUTS, Inputs
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer


@dataclass(frozen=True)
class Measured:
    """The numbers of a measurement.

    Attributes:
        values: Single values by name, which JSON can hold.
        arrays: Arrays by name.
    """

    values: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a measurement is computed with.

    Attributes:
        hardware: Device, threads and memory of the worker.
        progress: Called often enough that a job can be cancelled; what it raises ends the measurement.
        stage: Saves the states of a measurement that is one `Iteration`.
        job: Saves the states of a measurement with several stages.
        inputs: Checkpoints and uploaded files.
    """

    hardware: Hardware
    progress: Progress = ignore_progress
    stage: Checkpointer = NO_CHECKPOINTS
    job: JobCheckpointer = field(default_factory=JobCheckpointer)
    inputs: Inputs = NO_INPUTS


@dataclass(frozen=True)
class FigureContent:
    """What is made of the measurements of a figure.

    Attributes:
        points: The numbers, one row for each point.
        panels: What the picture shows.
        verdicts: Claims of the source, checked on the numbers.
        choices: Choices that the source leaves open, and corrections of its print.
        arrays: Arrays for the npz file beside those of the measurements.
    """

    points: Sequence[Mapping[str, Cell]]
    panels: Sequence[Panel]
    verdicts: Sequence[Verdict]
    choices: Sequence[Choice]
    arrays: Arrays = field(default_factory=dict)


Measure = Callable[[Any, Context], Measured]
MakeContent = Callable[[Any, Sequence[Measured]], FigureContent]


@cache
def measures() -> dict[type[Measurement], Measure]:
    """Return what computes each measurement, by the class of its message."""
    return merged(sys.modules["hessian_spectrum.worker.figures"], "MEASUREMENTS")  # type: ignore[return-value]


@cache
def figure_contents() -> dict[str, MakeContent]:
    """Return what makes the content of each figure, by name."""
    return merged(sys.modules["hessian_spectrum.worker.figures"], "FIGURE_CONTENTS")


def measure(measurement: Measurement, context: Context) -> Measured:
    """Compute a measurement.

    Args:
        measurement: Its message.
        context: What it is computed with.

    Returns:
        Its numbers.

    Raises:
        CurvatureError: If it cannot be computed.
    """
    return measures()[type(measurement)](measurement, context)


def content_of(figure: str, parameters: FigureParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make a figure of its measurements.

    Args:
        figure: Name of the figure.
        parameters: Its parameters.
        measured: Its measurements, in order.

    Returns:
        The content, with null for numbers in rows that are not finite.
    """
    content = figure_contents()[figure](parameters, measured)
    points = [{name: _finite(value) for name, value in row.items()} for row in content.points]
    return replace(content, points=points)


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not isfinite(value) else value
